# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what cameras and people put into folders."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_aprilgan.data.images import decode, is_hidden, read_rgb, readable
from bad_files import IMAGE, gray_levels, write_bad


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


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("root/good/1.png", False),
        ("root/.ipynb_checkpoints/1-checkpoint.png", True),
        ("root/good/._1.png", True),
        ("root/__MACOSX/good/1.png", True),
        ("root/good/1.png~", True),
    ],
)
@pytest.mark.parametrize("above", [".", ".cache"])
def test_files_that_others_keep_are_hidden_wherever_the_root_lies(
    tmp_path: Path, path: str, hidden: bool, above: str
) -> None:
    assert is_hidden(tmp_path / above / path, tmp_path / above / "root") == hidden
