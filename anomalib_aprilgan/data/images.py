# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image files as they come from cameras, of all depths and rotations, and files that can't be read as images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from anomalib_aprilgan.compat.anomalib import ON_ITS_SIDE, SIXTEEN_BITS, THIRTY_TWO_BITS, is_misread, orientation

logger = logging.getLogger(__name__)


def decode(path: str | Path) -> tuple[Tensor, bool]:
    """The image as ``read_rgb`` returns it, and whether anomalib's reader would have changed it.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    try:
        with Image.open(path) as image:
            _check_depth(image)
            misread = is_misread(image)
            ImageOps.exif_transpose(image, in_place=True)
            levels = _levels(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise _not_an_image(path, error) from error
    return torch.from_numpy(levels).permute(2, 0, 1), misread


def read_rgb(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1], turned if its EXIF data say so.

    Transparency is dropped. 16-bit levels are divided by 65535.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    return decode(path)[0]


def read_image(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1] as anomalib reads it, or as ``read_rgb`` does if anomalib misreads it.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    image, misread = decode(path)
    return image if misread else scaled_by_anomalib(image)


def scaled_by_anomalib(image: Tensor) -> Tensor:
    """An 8-bit image in [0, 1], rounded in the last bit as anomalib does."""
    return torch.as_tensor(to_dtype((image * 255).round().to(torch.uint8), torch.float32, scale=True))


def check_image(path: str | Path, any_depth: bool = False) -> tuple[int, int]:
    """Width and height of the image after its EXIF rotation. The image is decoded, so that damage is noticed.

    Args:
        path: Image file.
        any_depth: Whether 32 bits per pixel are allowed, as in masks, whose values are only compared with 0.

    Raises:
        ValueError: If it can't be read as an image.
    """
    try:
        with Image.open(path) as image:
            if not any_depth:
                _check_depth(image)
            image.load()
            return image.size[::-1] if orientation(image) in ON_ITS_SIDE else image.size
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


def unreadable(paths: Iterable[str | Path]) -> dict[Path, str]:
    """The files that can't be read as images, each with the reason."""

    def reason(path: Path) -> str | None:
        try:
            check_image(path)
        except ValueError as error:
            return str(error)
        return None

    files = [Path(path) for path in paths]
    with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
        return {path: why for path, why in zip(files, pool.map(reason, files), strict=True) if why is not None}


def is_hidden(path: str | Path, root: str | Path) -> bool:
    """Whether a file, or a folder between it and ``root``, is one that Jupyter, macOS or an editor keeps for itself."""
    path, root = Path(path).absolute(), Path(root).absolute()
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-2:]
    return any(part.startswith(".") or part in {"__MACOSX", "__pycache__"} or part.endswith("~") for part in parts)


def readable(paths: Iterable[str | Path]) -> list[Path]:
    """The files that can be read as images. The others are logged with the reason.

    Raises:
        ValueError: If no file can be read.
    """
    files = [Path(path) for path in paths]
    reasons = unreadable(files)
    if len(reasons) == len(files):
        msg = "None of the files to be inspected is an image: " + " ".join(reasons.values())
        raise ValueError(msg)
    for reason in reasons.values():
        logger.error("Left out: %s", reason)
    return [path for path in files if path not in reasons]
