# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image files as they come from cameras, of all depths and rotations, and files that can't be read as images."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from anomalib_aprilgan.compat.anomalib import ON_ITS_SIDE, SIXTEEN_BITS, THIRTY_TWO_BITS, is_misread, orientation

logger = logging.getLogger(__name__)

# Pillow's formats of pictures. Its others start programs (EPS), unpack a second format (ICO) or hold no picture.
FORMATS = {
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
}
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
_OPENED = [kind for kind in Image.ID if kind in FORMATS]  # that this Pillow was built with; it opens MPO as JPEG

_IMAGE_DEPTH = 32997  # TIFF's tag for the number of slices of a volume
_COPY_OR_MASK = 0b101  # bits of TIFF's NewSubfileType


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """The image in a file, not decoded yet. An error in the block names the file.

    Raises:
        ValueError: If the file is none of ``FORMATS``, or Pillow would misread it or only read a part of it.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise ValueError("it is a folder, pipe or device; expected a file")  # noqa: EM101
        with Image.open(path, formats=_OPENED) as image:
            fault = _fault(image)
            if fault is not None:
                raise ValueError(fault)
            yield image
    except UnidentifiedImageError as error:
        msg = f"{str(path)!r} can't be read as an image: it is none of {', '.join(sorted(FORMATS))}, or damaged."
        raise ValueError(msg) from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        msg = f"{str(path)!r} can't be read as an image ({type(error).__name__}: {error})."
        raise ValueError(msg) from error


def _fault(image: Image.Image) -> str | None:
    """Why Pillow would misread an image, or only read a part of it."""
    tags = _tags(image)
    if (getattr(image, "is_animated", False) and not _has_only_copies(image)) or tags.get(_IMAGE_DEPTH, 1) > 1:
        return "it holds several pages or frames, of which only the first would be inspected: save each as a file"
    separate = tags.get(Base.PlanarConfiguration) == 2
    if separate and (max(tags[Base.BitsPerSample]) > 8 or not tags.get(Base.PhotometricInterpretation)):
        return "Pillow misreads separate channels of more than 8 bits, or in which 0 is white: save it as PNG"
    if image.mode not in THIRTY_TWO_BITS and 2 in tags.get(Base.SampleFormat, ()):
        return "its levels are signed numbers, so that black is not 0: convert it"
    return None


def _tags(image: Image.Image) -> Any:
    """The tags of a TIFF file, by number; none of others."""
    return getattr(image, "tag_v2", {})


def _has_only_copies(image: Image.Image) -> bool:
    """Whether all images after the first are smaller copies of it, or masks of its transparency."""
    if image.format not in {"TIFF", "MPO"}:
        return False
    first = image.size
    for number in count(1):
        try:
            image.seek(number)
        except EOFError:
            break
        if not (
            _tags(image).get(Base.NewSubfileType, 0) & _COPY_OR_MASK or (image.format == "MPO" and image.size != first)
        ):
            return False
    image.seek(0)
    return True


def decode(path: str | Path) -> tuple[Tensor, bool]:
    """The image as ``read_rgb`` returns it, and whether anomalib's reader would have changed it.

    Raises:
        ValueError: As ``read_rgb``.
    """
    with open_image(path) as image:
        _check_depth(image)
        misread = is_misread(image)
        ImageOps.exif_transpose(image, in_place=True)
        return torch.from_numpy(_levels(image)).permute(2, 0, 1), misread


def read_rgb(path: str | Path) -> Tensor:
    """The image (3, H, W) in [0, 1], turned if its EXIF data say so.

    Transparency is dropped. 16-bit levels are divided by 65535, those of 12-bit TIFF files by 4095.

    Raises:
        ValueError: If the file can't be read as an image, or has 32 bits per pixel and so no known range.
    """
    return decode(path)[0]


def read_if_misread(path: str | Path) -> Tensor | None:
    """The image as ``read_rgb`` returns it if anomalib's reader changes it, else None.

    Raises:
        ValueError: As ``read_rgb``.
    """
    return read_rgb(path) if anomalib_misreads(path) else None


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


def check_image(path: str | Path) -> tuple[int, int]:
    """Width and height of the image after its EXIF rotation. The image is decoded, so that damage is noticed.

    Raises:
        ValueError: As ``read_rgb``.
    """
    with open_image(path) as image:
        _check_depth(image)
        image.load()
        return image.size[::-1] if orientation(image) in ON_ITS_SIDE else image.size


def check_header(path: str | Path) -> None:
    """Raise ValueError as ``read_rgb``, as far as it can be told without decoding the file."""
    with open_image(path) as image:
        _check_depth(image)


def anomalib_misreads(path: str | Path) -> bool:
    """Whether anomalib's reader changes an image. Raise ValueError if the file can't be read as one."""
    with open_image(path) as image:
        return is_misread(image)


def check_mask(path: str | Path) -> tuple[int, int]:
    """Width and height of a mask, whose values are only compared with 0, so that all depths are allowed.

    Raises:
        ValueError: If the file can't be read as an image, or anomalib's reader would turn or invert it.
    """
    with open_image(path) as image:
        inverted = _white_is_0(image)
        image.load()
        if inverted or orientation(image) != 1:
            msg = (
                "anomalib neither turns a mask by its EXIF data nor reads 0 as white in one of 16 bits: save it as PNG"
            )
            raise ValueError(msg)
        return image.size


def _check_depth(image: Image.Image) -> None:
    if image.mode in THIRTY_TWO_BITS and not _is_deep_pgm(image):
        msg = f"it has 32 bits per pixel (Pillow's mode {image.mode}); expected 8 or 16: convert it"
        raise ValueError(msg)


def _is_deep_pgm(image: Image.Image) -> bool:
    """Whether Pillow has brought more than 8 bits of a PGM file to 16, though it holds them in 32."""
    return image.format == "PPM" and image.mode == "I"


def _white_is_0(image: Image.Image) -> bool:
    """Whether 0 is white in levels of 16 bits, which Pillow does not invert, unlike those of 8."""
    return image.mode in SIXTEEN_BITS and _tags(image).get(Base.PhotometricInterpretation) == 0


def _levels(image: Image.Image) -> np.ndarray:
    if image.mode not in SIXTEEN_BITS and not _is_deep_pgm(image):
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    (bits,) = _tags(image).get(Base.BitsPerSample, (16,))
    levels = np.asarray(image, dtype=np.float32)[..., None] / (2**bits - 1)
    return np.repeat(1 - levels if _white_is_0(image) else levels, 3, axis=-1)


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
