# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for Lightning: each still needed, and working."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.connectors.data_connector import _get_distributed_sampler
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from anomalib_aprilgan.compat.lightning import end_by, unrepeated


def loader(n_images: int, batch_size: int, rank: int) -> DataLoader:
    """What Lightning makes of a loader for the test of one of three processes."""
    images = TensorDataset(torch.arange(n_images))
    ranks = {"num_replicas": 3, "rank": rank}
    sampler = _get_distributed_sampler(DataLoader(images), False, False, RunningStage.TESTING, **ranks)
    return DataLoader(images, batch_size, sampler=sampler)


def test_lightning_repeats_images() -> None:
    assert sum(len(loader(4, 1, rank)) for rank in range(3)) == 6


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("n_images", [4, 5, 7, 8])
def test_every_image_counts_once(n_images: int, batch_size: int) -> None:
    counted = []
    for rank in range(3):
        trainer = SimpleNamespace(testing=True, test_dataloaders=[loader(n_images, batch_size, rank)])
        for batch_idx, (numbers,) in enumerate(trainer.test_dataloaders[0]):
            batch = ImageBatch(image=torch.zeros(len(numbers), 3, 2, 2), image_path=[str(int(i)) for i in numbers])
            own = unrepeated(batch, trainer, batch_idx)
            counted += [] if own is None else own.image_path
    assert sorted(map(int, counted)) == list(range(n_images))


def test_lightning_ends_with_status_0_after_sigterm() -> None:
    assert SIGTERMException().code is None


def test_status_after_a_signal() -> None:
    with pytest.raises(KeyboardInterrupt):
        end_by(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        end_by(signal.SIGTERM)
    assert end.value.code == 143


def test_lightning_writes_checkpoints_to_the_system_s_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which AprilGan's checkpoints do not need; see `WholeCheckpointIO`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="missing"):
        TorchCheckpointIO().save_checkpoint({}, tmp_path / "model.ckpt")
