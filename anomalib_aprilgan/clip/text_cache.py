# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Text features on disk: encoding all prompts about a class name costs as much as several images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from anomalib.utils.path import get_pretrained_weights_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_aprilgan.safe_io import write_whole

logger = logging.getLogger(__name__)

NAME, CHECKSUM = "text_features", "sha256"


def cached(content: str, width: int, compute: Callable[[], Tensor]) -> Tensor:
    """Return what ``compute`` returns, from the disk if it is there as it was written.

    Args:
        content: Text that names all that the result depends on.
        width: Of the joint space, E.
        compute: Makes the text features (2, E) if there is no file, or one that is not right.
    """
    path = folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
    try:
        return _read(path, content, width)
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("%s can't be used and is computed again: %s", path, error)
    features = compute()
    if _fault(features, width):  # damaged weights: the scores will say so
        return features
    try:
        kept = features.cpu().contiguous()
        checksum = {CHECKSUM: _checksum(content, kept)}
        write_whole(path, lambda file: file.write(save({NAME: kept}, checksum)))
    except OSError as error:
        logger.warning("The text features can't be kept in %s: %s", path.parent, error)
    return features


def _read(path: Path, content: str, width: int) -> Tensor:
    with safe_open(path, "pt") as file:
        features = file.get_tensor(NAME)
        written = (file.metadata() or {}).get(CHECKSUM)
    fault = _fault(features, width)
    if fault is None and written != _checksum(content, features):
        fault = "it is damaged, or about something else: its checksum is wrong"
    if fault is not None:
        raise ValueError(fault)
    return features


def _fault(features: Tensor, width: int) -> str | None:
    """Return in words why these are no text features, or None."""
    if features.dtype != torch.float32 or tuple(features.shape) != (2, width):
        return f"expected float32 of shape (2, {width}), got {features.dtype} of shape {tuple(features.shape)}"
    norms = features.norm(dim=-1)
    if not torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-3):  # nor are they if they are no numbers
        return f"expected unit rows, got norms {norms.tolist()}"
    return None


def _checksum(content: str, features: Tensor) -> str:
    return hashlib.sha256(content.encode() + features.numpy().tobytes()).hexdigest()


def folder() -> Path:
    """Return the folder of text features: beside the adapters, in anomalib's cache."""
    return get_pretrained_weights_dir() / "april_gan" / "text_features"
