# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which images of a batch count when several processes share a data set."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from anomalib.data import ImageBatch
from lightning.pytorch import Trainer
from torch.utils.data import DistributedSampler


def unrepeated(
    batch: ImageBatch, trainer: Trainer | None, batch_idx: int, dataloader_idx: int = 0
) -> ImageBatch | None:
    """The batch without images that another process has too, None if none is left.

    In validation and testing Lightning gives all processes equally many images and repeats some for this, which would
    count twice in metrics and thresholds.

    Args:
        batch: Of this process.
        trainer: That is validating or testing; None: there is but one process.
        batch_idx: Number of the batch in this process, from 0.
        dataloader_idx: Number of the data loader, from 0.
    """
    if trainer is None:
        return batch
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, list) else loaders
    sampler = loader.sampler
    if not isinstance(sampler, DistributedSampler):
        return batch
    n_own = len(range(sampler.rank, len(loader.dataset), sampler.num_replicas)) - batch_idx * loader.batch_size
    if n_own >= len(batch):
        return batch
    return _first(batch, n_own) if n_own > 0 else None


def _first(batch: ImageBatch, size: int) -> ImageBatch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return type(batch)(**{name: value if value is None else value[:size] for name, value in values.items()})
