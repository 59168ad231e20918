# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image files as they come from cameras: depths that anomalib's reader does not know, and files that are none."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

logger = logging.getLogger(__name__)

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def read_rgb(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1]; transparency is dropped, 16-bit levels are scaled by their full range.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    try:
        with Image.open(path) as image:
            levels = _levels(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        msg = f"{str(path)!r} can't be read as an image ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    return torch.from_numpy(levels).permute(2, 0, 1)


def _levels(image: Image.Image) -> np.ndarray:
    if image.mode in {"I", "F"}:
        msg = f"it has 32 bits per pixel (Pillow's mode {image.mode}); expected 8 or 16: convert it"
        raise ValueError(msg)
    if image.mode in SIXTEEN_BITS:
        return np.repeat(np.asarray(image, dtype=np.float32)[..., None] / 65535, 3, axis=-1)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def has_sixteen_bits(path: str | Path) -> bool:
    """Whether the file is a 16-bit grayscale image, most of whose levels anomalib's reader turns into white."""
    with Image.open(path) as image:
        return image.mode in SIXTEEN_BITS


def restore_sixteen_bits(batch: Any) -> None:
    """Read 16-bit grayscale images of the batch again, most of whose levels anomalib's reader turns into white."""
    for index, path in enumerate(batch.image_path or []):
        if has_sixteen_bits(path):
            image = read_rgb(path).to(batch.image)
            batch.image[index] = resize(image, list(batch.image.shape[-2:]), antialias=True)


def readable(paths: Iterable[str | Path]) -> list[Path]:
    """Those of the files that hold images; the others are logged with the reason.

    Raises:
        ValueError: If none does.
    """
    images, reasons = [], []
    for path in paths:
        try:
            read_rgb(path)
        except ValueError as error:
            reasons.append(str(error))
        else:
            images.append(Path(path))
    if not images:
        msg = "None of the files to be inspected is an image: " + " ".join(reasons)
        raise ValueError(msg)
    for reason in reasons:
        logger.error("Left out: %s", reason)
    return images
