# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged, dangerous or no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

from conftest import GOLDEN

IMAGE = GOLDEN / "dataset" / "bolt" / "test" / "good" / "000.png"


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("code in a pickle ran",)


def saved(content: object, path: Path) -> bytes:
    torch.save(content, path)
    return path.read_bytes()


def flipped(content: bytes) -> bytes:
    """One bit of the largest tensor is not what it was: torch reads it without a word."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "it is empty"),
    "cut off in the middle": (lambda content: content[: len(content) // 2], "it is cut off, damaged, or not a file"),
    "cut off at the end": (lambda content: content[:-10], "it is cut off, damaged, or not a file"),
    "random bytes": (lambda _: bytes(range(256)) * 8, "it is cut off, damaged, or not a file"),
    "page of HTML": (lambda _: b"<html>404</html>", "it is cut off, damaged, or not a file"),
    "other pickle": (lambda _: b"\x80\x02cut off", "it is not a file of torch, or damaged"),
    "flipped bit": (flipped, "it is damaged: its part .* is not what was written"),
}


def gray_levels() -> np.ndarray:
    return np.arange(0, 65536, 65536 // 64, dtype=np.uint16).reshape(8, 8)


def write_bad(folder: Path) -> dict[str, Path]:
    """Files that bear an image's name, by what is wrong with them."""
    content = IMAGE.read_bytes()
    files = {"empty": b"", "text": b"no image", "truncated": content[: len(content) // 2], "noise": bytes(range(256))}
    paths = {name: folder / f"{name}.png" for name in files}
    for name, path in paths.items():
        path.write_bytes(files[name])
    paths["float"] = folder / "float.tif"
    Image.fromarray(gray_levels().astype(np.float32)).save(paths["float"])
    return paths


def save_turned(path: Path, orientation: int, size: tuple[int, int] = (60, 40)) -> None:
    """Writes an image that its EXIF data turn, without loss."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(IMAGE) as image:
        image.convert("RGB").resize(size).save(path, exif=exif)
