# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Text features on disk: encoding all prompts about a class name costs as much as several images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from anomalib.utils.path import get_pretrained_weights_dir
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from anomalib_aprilgan.safe_io import write_whole

logger = logging.getLogger(__name__)


def cached(content: str, compute: Callable[[], Tensor]) -> Tensor:
    """Return what ``compute`` returns, from the disk if it is there.

    Args:
        content: Text that names all that the result depends on.
        compute: Makes the text features (2, E) if there is no file, or one that can't be read.
    """
    path = folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
    try:
        return load_file(path)["text_features"]
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("%s can't be read and is computed again: %s", path, error)
    features = compute()
    try:
        write_whole(path, lambda file: file.write(save({"text_features": features.cpu().contiguous()})))
    except OSError as error:
        logger.warning("The text features can't be kept in %s: %s", path.parent, error)
    return features


def folder() -> Path:
    """Return the folder of text features: beside the adapters, in anomalib's cache."""
    return get_pretrained_weights_dir() / "april_gan" / "text_features"
