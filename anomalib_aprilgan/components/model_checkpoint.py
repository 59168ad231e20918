# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""When anomalib's checkpoints are written: what a validation outside training has calibrated, once."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomalib.callbacks.checkpoint import ModelCheckpoint as AnomalibCheckpoint
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_aprilgan.components.checkpoint import use_whole_files

logger = logging.getLogger(__name__)


class ModelCheckpoint(AnomalibCheckpoint):
    """anomalib's ModelCheckpoint, which writes nothing that is in the folder already.

    Differs: anomalib writes another file for each validation, also the one before every test and prediction
    (model-v1.ckpt, model-v2.ckpt, ...), but none of a trained model. No file is ever replaced.

    It has the name of its base, under which Lightning keeps its state in checkpoints.
    """

    def on_validation_end(self, trainer: Any, pl_module: LightningModule) -> None:
        """Outside training, save thresholds, references and adapters that no file has; say where they are."""
        if trainer.state.fn != TrainerFn.VALIDATING or is_dry(trainer):
            super().on_validation_end(trainer, pl_module)
            return
        # Of one process: another might see the file that the first one is writing.
        self.best_model_path = trainer.strategy.broadcast(self._file_with(pl_module))
        if not self.best_model_path:
            super().on_validation_end(trainer, pl_module)
        logger.info("Thresholds, references and adapters are kept in %s", self.best_model_path)

    def _file_with(self, module: LightningModule) -> str:
        """The checkpoint in the folder that holds all that is in the model; empty if there is none."""
        wanted: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        module.on_save_checkpoint(wanted)
        for path in sorted(Path(str(self.dirpath)).glob(f"{self.filename}*{self.FILE_EXTENSION}")):
            with suppress(ValueError, OSError):  # a damaged file holds nothing
                content = module.trainer.strategy.checkpoint_io.load_checkpoint(path, map_location="cpu")
                if _are_equal({key: content.get(key) for key in wanted}, wanted):
                    return str(path)
        return ""

    def _should_skip_saving_checkpoint(self, trainer: Any) -> bool:
        if trainer.state.fn == TrainerFn.VALIDATING:
            return is_dry(trainer)
        return super()._should_skip_saving_checkpoint(trainer)

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        return trainer.state.fn != TrainerFn.VALIDATING and super()._should_save_on_train_epoch_end(trainer)


def keep_checkpoints(trainer: Trainer) -> None:
    """Have anomalib's ways of writing checkpoints be ours; what a user has chosen otherwise stays."""
    use_whole_files(trainer.strategy)
    for callback in trainer.checkpoint_callbacks:
        if type(callback) is AnomalibCheckpoint:
            callback.__class__ = ModelCheckpoint


def _are_equal(first: Any, second: Any) -> bool:
    """Whether two parts of checkpoints have the same content; numbers that are none are equal, and so are times."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = (first.keys() | second.keys()) - {"added"}
        return all(key in first and key in second and _are_equal(first[key], second[key]) for key in names)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return bool(first == second)
    second = second.to(first.device)
    return first.shape == second.shape and bool(((first == second) | (first != first) & (second != second)).all())  # noqa: PLR0124


def is_dry(trainer: Any) -> bool:
    """Whether a run is only tried, with ``fast_dev_run``."""
    return bool(trainer.fast_dev_run)
