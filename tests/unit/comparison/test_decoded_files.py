# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Test images and masks that are decoded once, against those that anomalib reads."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.datasets.base import image as base
from PIL import Image

from anomalib_aprilgan.comparison import decoded_files
from anomalib_aprilgan.comparison.decoded_files import DecodedFiles
from conftest import BOLT

SIDE, N_IMAGES, N_MASKS = 96, 9, 5
EVERYTHING = SIDE**2 * (3 * N_IMAGES + N_MASKS)  # bytes


@pytest.fixture
def tested(tmp_path: Path) -> Any:
    """The goldens' bolts to test on, in a copy."""
    shutil.copytree(BOLT, tmp_path / "bolt")
    datamodule = MVTecAD(tmp_path, "bolt", num_workers=0)
    datamodule.setup()
    return datamodule.test_data


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded."""
    paths: list[str] = []

    def count(reader: Any, path: Any, as_tensor: bool = False) -> Any:
        paths.append(str(path))
        return reader(path, as_tensor)

    for name in decoded_files.NAMES:
        monkeypatch.setattr(base, name, partial(count, getattr(base, name)))
    return paths


def items(dataset: Any) -> list[tuple]:
    return [(item.image, item.gt_mask) for item in (dataset[index] for index in range(len(dataset)))]


def assert_same(actual: list[tuple], expected: list[tuple]) -> None:
    for pair, other in zip(actual, expected, strict=True):
        for tensor, its in zip(pair, other, strict=True):
            assert (type(tensor), tensor.dtype) == (type(its), its.dtype)
            assert torch.equal(tensor, its)


@pytest.mark.parametrize(
    ("limit", "again"),
    [(EVERYTHING, 0), (SIDE**2 * 3 * 2, N_IMAGES - 2 + N_MASKS), (0, N_IMAGES + N_MASKS)],
    ids=["all are held", "two images are held", "none"],
)
def test_they_are_those_that_anomalib_reads(tested: Any, read: list[str], limit: int, again: int) -> None:
    expected, decoded = items(tested), DecodedFiles(limit)
    with decoded.reading(tested):
        pass
    assert decoded.nbytes <= limit
    with decoded.reading(tested):
        read.clear()
        found = items(tested)
        assert len(read) == again
        found[0][0].zero_()  # what a model changes is its own
        assert_same(items(tested), expected)
    read.clear()
    items(tested)
    assert len(read) == N_IMAGES + N_MASKS  # outside of a run, anomalib reads as ever


def test_what_was_used_last_stays(tested: Any, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "bolt", tmp_path / "nut")
    other = MVTecAD(tmp_path, "nut", num_workers=0)
    other.setup()
    decoded = DecodedFiles(EVERYTHING)
    for name, dataset in (("bolt", tested), ("nut", other.test_data)):
        with decoded.reading(dataset):
            assert decoded.nbytes == EVERYTHING
            assert {Path(path).is_relative_to(tmp_path / name) for _, path, *_ in decoded._held} == {True}


def test_files_that_change_or_are_damaged(tested: Any) -> None:
    decoded = DecodedFiles(EVERYTHING)
    with decoded.reading(tested):
        pass
    path = tested.samples.image_path[0]
    Image.fromarray(np.full((SIDE, SIDE, 3), 7, dtype=np.uint8)).save(path)
    with decoded.reading(tested):
        assert torch.equal((tested[0].image * 255).round(), torch.full((3, SIDE, SIDE), 7.0))
    Path(path).write_bytes(b"no image")
    with decoded.reading(tested), pytest.raises(OSError, match="cannot identify image file"):
        tested[0]


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_files, "free_bytes", lambda: 800)
    decoded = DecodedFiles()
    for limit, expected in ((None, 50), (300, 50), (6, 1)):
        decoded.set_limit(limit, workers=2)
        assert decoded.limit == expected
