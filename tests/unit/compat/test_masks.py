# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Masks in files with losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anomalib.data.utils import read_mask as of_anomalib
from PIL import Image

from anomalib_aprilgan.compat.masks import is_lossy, read_mask


@pytest.fixture
def levels() -> np.ndarray:
    levels = np.zeros((64, 80), np.uint8)
    levels[20:41, 30:57] = 255
    levels[10, 10:50] = 255  # a scratch
    return levels


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask.png", {}),
        ("mask.jpg", {"quality": 75}),
        ("mask.tif", {"compression": "jpeg"}),
        ("mask.jp2", {"quality_layers": [10]}),
        ("mask.webp", {"quality": 50}),
    ],
)
def test_noise_of_a_format_is_no_defect(tmp_path: Path, levels: np.ndarray, name: str, options: dict) -> None:
    path = tmp_path / name
    Image.fromarray(levels).save(path, **options)
    np.testing.assert_array_equal(read_mask(path, as_tensor=True).numpy(), levels > 0)
    np.testing.assert_array_equal(np.asarray(read_mask(path)) > 0, levels > 0)


def test_anomalib_still_takes_noise_for_a_defect(tmp_path: Path, levels: np.ndarray) -> None:
    """When this fails, ``compat/masks.py`` may go."""
    Image.fromarray(levels).save(path := tmp_path / "mask.jpg")
    assert of_anomalib(path, as_tensor=True).sum() > 1.2 * (levels > 0).sum()


@pytest.mark.parametrize(("name", "lossy"), [("mask.png", False), ("mask.jpg", True), ("mask.tif", False)])
@pytest.mark.parametrize("level", [1, 100, 255])
def test_numbers_of_classes_are_defects(tmp_path: Path, name: str, lossy: bool, level: int) -> None:
    Image.new("L", (16, 16), level).save(path := tmp_path / name)
    assert is_lossy(path) == lossy
    assert read_mask(path, as_tensor=True).all()


def test_a_jpeg_file_with_another_name_is_one(tmp_path: Path, levels: np.ndarray) -> None:
    Image.fromarray(levels).save(path := tmp_path / "mask.png", "JPEG")
    assert is_lossy(path)
    np.testing.assert_array_equal(read_mask(path, as_tensor=True).numpy(), levels > 0)
