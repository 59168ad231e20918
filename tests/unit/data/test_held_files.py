# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are decoded once for all epochs of a training."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from PIL import Image
from torch import Tensor

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.data import auxiliary_dataset
from anomalib_aprilgan.data.auxiliary_dataset import AuxiliaryDataset
from anomalib_aprilgan.data.held_files import HeldFiles
from anomalib_aprilgan.data.images import read_image
from anomalib_aprilgan.data.masks import mask_tensor
from conftest import GOLDEN

DATASET = GOLDEN / "dataset"
ROOM = 2**30


def write(path: Path, levels: np.ndarray) -> str:
    Image.fromarray(levels).save(path)
    return str(path)


def noise(path: Path, depth: type = np.uint8) -> str:
    shape = (5, 7, 3) if depth is np.uint8 else (5, 7)
    return write(path, np.random.default_rng(0).integers(0, np.iinfo(depth).max, shape, dtype=depth))


@pytest.mark.parametrize(("reader", "dtype"), [(read_image, torch.float32), (mask_tensor, None)])
def test_what_is_held_is_what_was_read(tmp_path: Path, reader: object, dtype: torch.dtype | None) -> None:
    path = noise(tmp_path / "image.png") if reader is read_image else write(tmp_path / "m.png", np.eye(5, dtype="u1"))
    files, expected = HeldFiles(ROOM), reader(path)
    assert torch.equal(files.hold(reader, path), expected)
    assert files.nbytes == expected.numel()  # a byte each
    found = files.read(reader, path)
    assert (found.dtype, dtype or found.dtype) == (expected.dtype, found.dtype)
    found.zero_()  # what its reader does to it is the reader's own
    assert torch.equal(files.read(reader, path), expected)


def test_files_are_read_once_until_they_change(tmp_path: Path) -> None:
    read: list[str] = []

    def reader(path: str) -> Tensor:
        read.append(path)
        return read_image(path)

    path, files = noise(tmp_path / "image.png"), HeldFiles(ROOM)
    for _ in range(2):
        files.hold(reader, path)
        files.read(reader, path)
    assert files.nbytes == 5 * 7 * 3  # once, though held twice
    read.clear()
    files.read(reader, path)
    assert read == []
    write(tmp_path / "image.png", np.zeros((6, 6, 3), np.uint8))
    assert files.read(reader, path).shape == (3, 6, 6)
    assert read == [path]


def test_what_does_not_fit_is_read_each_time(tmp_path: Path) -> None:
    small, large = noise(tmp_path / "a.png"), write(tmp_path / "b.png", np.zeros((50, 50, 3), np.uint8))
    files = HeldFiles(5 * 7 * 3)
    for path in (large, small):
        files.hold(read_image, path)
    assert files.nbytes == 5 * 7 * 3
    assert files.read(read_image, large).shape == (3, 50, 50)


def test_levels_between_those_of_8_bits_are_not_held(tmp_path: Path) -> None:
    path, files = noise(tmp_path / "deep.png", np.uint16), HeldFiles(ROOM)
    expected = files.hold(read_image, path)
    assert files.nbytes == 0
    assert torch.equal(files.read(read_image, path), expected)


def test_a_process_that_is_not_forked_reads_the_files_itself(tmp_path: Path) -> None:
    path, files = noise(tmp_path / "image.png"), HeldFiles(ROOM)
    files.hold(read_image, path)
    copy = pickle.loads(pickle.dumps(files))
    assert copy.nbytes == 0
    assert torch.equal(copy.read(read_image, path), read_image(path))


def table() -> AuxiliaryDataset:
    datamodule = AuxiliaryDataModule(MVTecAD(DATASET, "bolt", num_workers=0), num_workers=0)
    datamodule.setup()
    return datamodule.train_data


@pytest.mark.parametrize("memory", [ROOM, 96 * 96 * 3 * 2, 0])
def test_a_training_sees_the_same_images(memory: int) -> None:
    held, plain = table(), table()
    held.check_files(memory)
    assert held.files.nbytes <= memory
    for number in range(2 * len(plain)):  # of two epochs, some of them mosaics
        item, expected = held[number], plain[number]
        assert torch.equal(item.image, expected.image)
        assert torch.equal(item.gt_mask, expected.gt_mask)
        assert type(item.image) is type(expected.image)


def test_a_training_decodes_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(path: str) -> Tensor:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(auxiliary_dataset, "read_image", count)
    data = table()
    data.check_files(ROOM)
    for number in range(3 * len(data)):
        data[number]
    assert sorted(read) == sorted(data.samples.image_path)


def test_nothing_is_held_after_training() -> None:
    datamodule = AuxiliaryDataModule(MVTecAD(DATASET, "bolt", num_workers=0), num_workers=0)
    datamodule.setup("fit")
    assert datamodule.train_data.files.nbytes > 0
    datamodule.teardown("fit")
    assert datamodule.train_data.files.nbytes == 0
