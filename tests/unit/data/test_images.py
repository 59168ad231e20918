# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what cameras and people put into folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_aprilgan.data.images import (
    check_image,
    check_mask,
    decode,
    read_if_misread,
    read_rgb,
    readable,
)
from bad_files import (
    IMAGE,
    gray_levels,
    save_turned,
    write_12_bits,
    write_bad,
    write_inverted,
    write_planar,
    write_tiff,
)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_8_bit_images_are_what_pillow_makes_of_them(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    with Image.open(IMAGE) as image:
        image.convert(mode).save(path)
        expected = np.asarray(image.convert(mode).convert("RGB"))
    assert torch.equal((read_rgb(path) * 255).round().permute(1, 2, 0), torch.from_numpy(expected.copy()).float())
    assert not decode(path)[1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_levels_span_the_range(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gray_levels()).save(path)
    assert decode(path)[1]
    expected = torch.from_numpy(gray_levels().astype(np.float32)) / 65535
    torch.testing.assert_close(read_rgb(path), expected.expand(3, -1, -1))


@pytest.mark.parametrize(
    ("write", "levels"),
    [
        (write_12_bits, (gray_levels() >> 4) / 4095),
        (write_inverted, gray_levels() / 65535),
        (
            lambda path: path.write_bytes(b"P5 8 8 65535\n" + gray_levels().astype(">u2").tobytes()),
            gray_levels() / 65535,
        ),
        (
            lambda path: path.write_bytes(b"P5 8 8 4095\n" + (gray_levels() >> 4).astype(">u2").tobytes()),
            (gray_levels() >> 4) / 4095,
        ),
    ],
    ids=["12 bits", "0 is white", "PGM", "PGM of 12 bits"],
)
def test_what_pillow_scales_or_inverts_wrongly_spans_the_range(
    tmp_path: Path, write: Callable[[Path], object], levels: np.ndarray
) -> None:
    path = tmp_path / "deep.tif"
    write(path)
    expected = torch.from_numpy(levels).float().expand(3, -1, -1)
    torch.testing.assert_close(read_rgb(path), expected, atol=1 / 65535, rtol=0)
    assert torch.equal(read_if_misread(path), read_rgb(path))


def frames(path: Path, small: bool = False) -> None:
    with Image.open(IMAGE) as image:
        other = image.resize((20, 20) if small else image.size).rotate(90)
        image.save(path, format=path.suffix[1:].upper().replace("TIF", "TIFF"), save_all=True, append_images=[other])


SEVERAL = "it holds several pages or frames, of which only the first would be inspected"
SEPARATE = "Pillow misreads separate channels"
NO_FILE = "it is a folder, pipe or device"
NO_FORMAT = "it is none of AVIF, BMP, .*WEBP, or damaged"


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        *((f"a.{suffix}", frames, SEVERAL) for suffix in ("gif", "png", "tif", "webp", "mpo")),
        ("volume.tif", lambda path: write_tiff(path, bytes(128), BitsPerSample=8, ImageDepth=2), SEVERAL),
        ("planar.tif", write_planar, SEPARATE),
        ("planar gray.tif", lambda path: write_planar(path, colors=1), SEPARATE),
        ("inverted planar.tif", lambda path: write_planar(path, np.uint8, 1), SEPARATE),
        (
            "signed.tif",
            lambda path: write_tiff(path, bytes(64), BitsPerSample=8, PhotometricInterpretation=1, SampleFormat=2),
            "signed",
        ),
        ("pipe.png", os.mkfifo, NO_FILE),
        ("folder.png", Path.mkdir, NO_FILE),
        ("device.png", lambda path: path.symlink_to("/dev/zero"), NO_FILE),
        ("postscript.png", lambda path: Image.open(IMAGE).convert("RGB").save(path, "EPS"), NO_FORMAT),
        ("icon.png", lambda path: Image.open(IMAGE).save(path, "ICO"), NO_FORMAT),
    ],
)
def test_what_would_be_misread_or_dangerous_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    write(path)
    for read in (read_rgb, read_if_misread, check_image, check_mask):
        with pytest.raises(ValueError, match=rf"{name}' can't be read as an image.*{message}"):
            read(path)


def test_smaller_copies_of_an_image_are_no_further_images(tmp_path: Path) -> None:
    """Phones and scanners save previews and maps of brightness beside the picture."""
    path = tmp_path / "photo.mpo"
    frames(path, small=True)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal((read_rgb(path) * 255).round().byte().permute(1, 2, 0).numpy(), expected)


def test_planar_colours_of_8_bits_are_read(tmp_path: Path) -> None:
    write_planar(tmp_path / "planar.tif", np.uint8)
    expected = torch.from_numpy((gray_levels() >> 8).astype(np.float32) / 255).expand(3, -1, -1)
    torch.testing.assert_close(read_rgb(tmp_path / "planar.tif"), expected)


@pytest.mark.parametrize("write", [write_inverted, lambda path: save_turned(path.with_suffix(".png"), 3)])
def test_masks_that_anomalib_would_turn_or_invert_are_refused(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "mask.tif")
    with pytest.raises(ValueError, match="neither turns a mask by its EXIF data nor reads 0 as white"):
        check_mask(next(tmp_path.iterdir()))


@pytest.mark.parametrize("name", ["empty", "text", "truncated", "noise"])
def test_files_that_are_no_images_are_named(tmp_path: Path, name: str) -> None:
    path = write_bad(tmp_path)[name]
    with pytest.raises(ValueError, match=rf"{name}\.png' can't be read as an image"):
        read_rgb(path)


def test_32_bits_have_no_known_range(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"float\.tif' can't be read .*32 bits per pixel .* expected 8 or 16"):
        read_rgb(write_bad(tmp_path)["float"])


def test_bad_files_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = write_bad(tmp_path)
    with caplog.at_level(logging.ERROR, "anomalib_aprilgan"):
        assert readable([*bad.values(), IMAGE]) == [IMAGE]
    assert all(str(path) in caplog.text for path in bad.values())


def test_nothing_but_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"None of the files to be inspected is an image: .*empty\.png"):
        readable([write_bad(tmp_path)["empty"]])
