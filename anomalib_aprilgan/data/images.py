# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image files as they come from cameras: depths and rotations that anomalib ignores, and files that are no images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anomalib.data.utils
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import resize

logger = logging.getLogger(__name__)

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
THIRTY_TWO_BITS = ("I", "F")


def read_rgb(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1] as it is to be seen, turned if its EXIF data say so.

    Transparency is dropped, 16-bit levels are scaled by their full range.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    try:
        with Image.open(path) as image:
            _check_depth(image)
            ImageOps.exif_transpose(image, in_place=True)
            levels = _levels(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise _not_an_image(path, error) from error
    return torch.from_numpy(levels).permute(2, 0, 1)


def check_image(path: str | Path, any_depth: bool = False) -> tuple[int, int]:
    """Width and height of the image as it is to be seen, after decoding it, so that a damaged one is noticed.

    Args:
        path: Of the file.
        any_depth: Whether it may have 32 bits per pixel, as masks may, where all that is not 0 is the same.

    Raises:
        ValueError: If it can't be read as an image.
    """
    try:
        with Image.open(path) as image:
            if not any_depth:
                _check_depth(image)
            image.load()
            return image.size[::-1] if _lies_on_its_side(image) else image.size
    except Exception as error:  # as above
        raise _not_an_image(path, error) from error


def _not_an_image(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{str(path)!r} can't be read as an image ({type(error).__name__}: {error}).")


def _check_depth(image: Image.Image) -> None:
    if image.mode in THIRTY_TWO_BITS:
        msg = f"it has 32 bits per pixel (Pillow's mode {image.mode}); expected 8 or 16: convert it"
        raise ValueError(msg)


def _levels(image: Image.Image) -> np.ndarray:
    if image.mode in SIXTEEN_BITS:
        return np.repeat(np.asarray(image, dtype=np.float32)[..., None] / 65535, 3, axis=-1)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def _orientation(image: Image.Image) -> int:
    """EXIF's number for how the stored pixels are to be turned, from 1 (not at all) to 8."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _lies_on_its_side(image: Image.Image) -> bool:
    return _orientation(image) in {5, 6, 7, 8}


def is_misread(path: str | Path) -> bool:
    """Whether anomalib's reader changes the image: most levels of deep ones become white, EXIF rotation is ignored."""
    with Image.open(path) as image:
        return image.mode in {*SIXTEEN_BITS, *THIRTY_TWO_BITS} or _orientation(image) != 1


def read_image(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1] as anomalib reads it, unless it misreads it.

    Raises:
        ValueError: If it has 32 bits per pixel.
    """
    if is_misread(path):
        return read_rgb(path)
    return torch.as_tensor(anomalib.data.utils.read_image(path, as_tensor=True))


def restore_misread(batch: Any) -> None:
    """Read the batch's images again that anomalib misreads.

    Raises:
        ValueError: If one has 32 bits per pixel, or lies on its side and its mask does too.
    """
    for index, path in enumerate(batch.image_path or []):
        if not is_misread(path):
            continue
        image = read_rgb(path).to(batch.image)
        _check_side(path, batch, index, image)
        if len(batch.image) == 1:
            batch.image = image.unsqueeze(0)
        else:
            batch.image[index] = resize(image, list(batch.image.shape[-2:]), antialias=True)


def _check_side(path: str, batch: Any, index: int, image: Tensor) -> None:
    height, width = image.shape[-2:]
    with Image.open(path) as stored:
        turned = _lies_on_its_side(stored)
    marked = batch.gt_mask is not None and batch.gt_mask[index].any()
    if turned and marked and height != width and batch.gt_mask.shape[-2:] == (width, height):
        msg = (
            f"{path!r} is to be turned by its EXIF data to {width} x {height} pixels, but its mask has {height} x "
            f"{width}: turn the mask too, or remove the EXIF data."
        )
        raise ValueError(msg)


def unreadable(paths: Iterable[str | Path]) -> dict[Path, str]:
    """Why files can't be read as images, of those that can't."""

    def reason(path: Path) -> str | None:
        try:
            check_image(path)
        except ValueError as error:
            return str(error)
        return None

    files = [Path(path) for path in paths]
    with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
        return {path: why for path, why in zip(files, pool.map(reason, files), strict=True) if why is not None}


def readable(paths: Iterable[str | Path]) -> list[Path]:
    """Those of the files that hold images; the others are logged with the reason.

    Raises:
        ValueError: If none does.
    """
    files = [Path(path) for path in paths]
    reasons = unreadable(files)
    if len(reasons) == len(files):
        msg = "None of the files to be inspected is an image: " + " ".join(reasons.values())
        raise ValueError(msg)
    for reason in reasons.values():
        logger.error("Left out: %s", reason)
    return [path for path in files if path not in reasons]
