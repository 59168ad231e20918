# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C and SIGTERM: a training ends after the current batch and can be resumed; all else ends at once."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_aprilgan.compat.lightning import end_by

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted.ckpt"


class GracefulShutdown(Callback):
    """Ends a run on Ctrl-C or SIGTERM, with an exit status that tells it.

    A training saves a checkpoint after the current batch first. Lightning stops in the middle of a step, and keeps only
    the checkpoint of the last epoch.

    On several devices signals are left to Lightning, because not all processes may get them.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle a first signal at the end of the batch, a second one at once."""
        del pl_module

        def ask(number: int, frame: Any) -> None:
            del frame
            if self.asked is not None:
                end_by(signal.Signals(number))
            self.asked = signal.Signals(number)
            logger.warning(
                "The training is saved and ends after this batch or validation. A second signal ends it now."
            )

        self._handle(trainer, dict.fromkeys((signal.SIGINT, signal.SIGTERM), ask))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """End if asked to. After the last batch of an epoch, a validation may come first."""
        del pl_module, args
        if self.asked is not None and not trainer.is_last_batch:
            self._save_and_end(trainer, self.asked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End if asked to."""
        del pl_module
        if self.asked is not None:
            self._save_and_end(trainer, self.asked)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once on SIGTERM."""
        del pl_module
        self._handle(trainer, {signal.SIGTERM: lambda number, _: end_by(signal.Signals(number))})

    on_predict_start = on_test_start  # predictions.csv holds the predictions until the signal

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore Lightning's signal handlers."""
        del trainer, pl_module
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    on_test_end = on_predict_end = on_train_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore Lightning's signal handlers."""
        del exception
        self.on_train_end(trainer, pl_module)

    def _handle(self, trainer: Trainer, handlers: dict[signal.Signals, Any]) -> None:
        self.asked = None
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _save_and_end(self, trainer: Trainer, number: signal.Signals) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder is not None:
            path = Path(folder) / INTERRUPTED
            trainer.save_checkpoint(path, weights_only=False)
            logger.warning("The training was stopped. Resume it with `--ckpt_path %s`.", path)
        end_by(number)
