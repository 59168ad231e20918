# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C and SIGTERM: a training ends after the batch at hand and can go on from there, all else ends at once."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted.ckpt"


class Interruption(Callback):
    """Ends a run when it is asked to, with an exit status that says so.

    Differs: Lightning stops a training anywhere in a step, with nothing but the last epoch's checkpoint; after SIGTERM
    it ends with exit status 0, and while it predicts not at all.

    On several devices, where not all processes need get the signal, it is left to Lightning.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the end of the batch; a second signal does not."""
        del pl_module

        def ask(number: int, frame: Any) -> None:
            del frame
            if self.asked is not None:
                _end(signal.Signals(number))
            self.asked = signal.Signals(number)
            logger.warning("The training ends after this batch (or validation), which is kept. Once more: at once.")

        self._handle(trainer, dict.fromkeys((signal.SIGINT, signal.SIGTERM), ask))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """End here, but for the last batch of an epoch, after which a validation may come."""
        del pl_module, args
        if self.asked is not None and not trainer.is_last_batch:
            self._keep_and_end(trainer, self.asked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End here."""
        del pl_module
        if self.asked is not None:
            self._keep_and_end(trainer, self.asked)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once on SIGTERM too."""
        del pl_module
        self._handle(trainer, {signal.SIGTERM: lambda number, _: _end(signal.Signals(number))})

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same; the table holds what was predicted before."""
        self.on_test_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back to Lightning, which gives back its own later."""
        del trainer, pl_module
        self._restore()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.on_train_end(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.on_train_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same."""
        del exception
        self.on_train_end(trainer, pl_module)

    def _handle(self, trainer: Trainer, handlers: dict[signal.Signals, Any]) -> None:
        self.asked = None
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _keep_and_end(self, trainer: Trainer, number: signal.Signals) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder is not None:
            path = Path(folder) / INTERRUPTED
            trainer.save_checkpoint(path)
            logger.warning("The training was stopped. It goes on from there with `--ckpt_path %s`.", path)
        _end(number)


def _end(number: signal.Signals) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
