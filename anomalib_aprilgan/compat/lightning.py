# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults of Lightning, all seen in 2.6.6."""

from __future__ import annotations

import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from anomalib.data import AnomalibDataModule, ImageBatch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler


def unrepeated(
    batch: ImageBatch, trainer: Trainer | None, batch_idx: int, dataloader_idx: int = 0
) -> ImageBatch | None:
    """The batch without images that another process has too, None if none is left.

    Lightning validates and tests equally many images in each process and repeats some for this, which would count
    twice in metrics and thresholds (https://github.com/Lightning-AI/pytorch-lightning/issues/7929).

    Args:
        batch: Of this process.
        trainer: That is validating or testing; None: there is but one process.
        batch_idx: Number of the batch in this process, from 0.
        dataloader_idx: Number of the data loader, from 0.
    """
    if trainer is None:
        return batch
    loader = current_loader(trainer, dataloader_idx)
    sampler = loader.sampler
    if not isinstance(sampler, DistributedSampler):
        return batch
    n_own = len(range(sampler.rank, len(loader.dataset), sampler.num_replicas)) - batch_idx * loader.batch_size
    if n_own >= len(batch):
        return batch
    return _first(batch, n_own) if n_own > 0 else None


def current_loader(trainer: Trainer, dataloader_idx: int = 0) -> Any:
    """A data loader of the validation, test or prediction at hand; None outside of these."""
    kinds = {"testing": "test_dataloaders", "predicting": "predict_dataloaders"}
    name = next((kinds[kind] for kind in kinds if getattr(trainer, kind, False)), "val_dataloaders")
    loaders: Any = getattr(trainer, name)
    return loaders[dataloader_idx] if isinstance(loaders, list) and loaders else loaders


def _first(batch: ImageBatch, size: int) -> ImageBatch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return type(batch)(**{name: value if value is None else value[:size] for name, value in values.items()})


def end_by(number: signal.Signals) -> NoReturn:
    """End the process with the exit status that tells which signal has ended it.

    Lightning ends a training with status 0 after SIGTERM, and ignores SIGTERM while it tests or predicts
    (https://github.com/Lightning-AI/pytorch-lightning/issues/19916).

    Raises:
        KeyboardInterrupt: After SIGINT, as Python does.
        SystemExit: After other signals, with 128 + their number.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def current_datamodule(module: LightningModule) -> Any:
    """The data module of the run at hand, or of the last one between runs; None without any.

    Lightning leaves ``trainer.datamodule`` as an earlier run has set it when a run is given data loaders instead.
    """
    trainer: Any = module._trainer  # noqa: SLF001  # the public property raises where there is none
    datamodule = getattr(trainer, "datamodule", None)
    loop = None if datamodule is None else trainer._active_loop  # noqa: SLF001
    if loop is not None and loop._data_source.instance is not datamodule:  # noqa: SLF001
        return None
    return datamodule


def own_loaders(trainer: Trainer) -> list[DataLoader]:
    """The loaders of images that a run to validate, test or predict was given instead of a data module of anomalib's.

    Those of another data module are made here, once: Lightning would make them anew after they were looked at.
    Before a run's processes read the first images, which they do before Lightning has its public attributes set.
    """
    loop: Any = trainer._active_loop  # noqa: SLF001
    source = getattr(getattr(getattr(loop, "epoch_loop", None), "val_loop", loop), "_data_source", None)
    if source is None or source.instance is None:
        return []
    if isinstance(source.instance, LightningDataModule) and not isinstance(source.instance, AnomalibDataModule):
        source.instance = getattr(source.instance, source.name)()
    if source.is_module():
        return []
    return [loader for loader in CombinedLoader(source.instance).flattened if isinstance(loader, DataLoader)]


def move_results(trainer: Trainer, folder: Path) -> None:
    """Have a trainer write its results, but for checkpoints, into another folder: it has no public way."""
    vars(trainer)["_default_root_dir"] = str(folder)
