# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged, dangerous or no images."""

from __future__ import annotations

import struct
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


def write_tiff(path: Path, pixels: bytes, **tags: int | tuple[int, ...]) -> None:
    """Writes a TIFF file of 8 x 8 pixels that Pillow can't write; tags are named as in Pillow's ExifTags."""
    size = {"ImageWidth": 8, "ImageLength": 8, "RowsPerStrip": 8, "Compression": 1, "SamplesPerPixel": 1}
    samples = tags.get("SamplesPerPixel", 1)
    strips = samples if tags.get("PlanarConfiguration") == 2 else 1
    counts = (len(pixels) // strips,) * strips
    offsets = tuple(8 + number * counts[0] for number in range(strips))
    found = {**size, "StripByteCounts": counts, "StripOffsets": offsets, **tags}
    values = {
        {**ExifTags.Base.__members__, "ImageDepth": 32997}[name]: value if isinstance(value, tuple) else (value,)
        for name, value in found.items()
    }
    start = 8 + len(pixels)
    far = start + 6 + 12 * len(values)
    entries, rest = b"", b""
    for number, value in sorted(values.items()):
        packed = struct.pack(f"<{len(value)}I", *value)
        here = packed if len(value) == 1 else struct.pack("<I", far + len(rest))
        rest += packed if len(value) > 1 else b""
        entries += struct.pack("<HHI", number, 4, len(value)) + here
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + pixels + struct.pack("<H", len(values)) + entries + bytes(4) + rest
    )


def write_12_bits(path: Path) -> None:
    """Writes ``gray_levels`` with 12 bits per pixel."""
    bits = "".join(f"{level >> 4:012b}" for level in gray_levels().flat)
    write_tiff(path, int(bits, 2).to_bytes(len(bits) // 8, "big"), BitsPerSample=12, PhotometricInterpretation=1)


def write_inverted(path: Path) -> None:
    """Writes ``gray_levels`` with 16 bits per pixel and 0 for white."""
    write_tiff(path, (65535 - gray_levels()).tobytes(), BitsPerSample=16, PhotometricInterpretation=0)


def write_planar(path: Path, dtype: type = np.uint16, colors: int = 3) -> None:
    """Writes channels one after the other."""
    channel = (gray_levels() >> (0 if dtype is np.uint16 else 8)).astype(dtype)
    kind = {"BitsPerSample": (channel.itemsize * 8,) * colors, "SamplesPerPixel": colors, "PlanarConfiguration": 2}
    write_tiff(path, channel.tobytes() * colors, **kind, PhotometricInterpretation=2 if colors == 3 else 0)
