# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a comparison is doing and how far it is: bars on a terminal, else lines with the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30  # between two lines about one stage
_running: list[RunsProgress] = []


class RunsProgress(Progress):
    """The number of runs that have ended, and below it the stage that the comparison is at."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)  # it keeps this stream, because runs redirect sys.stderr
        count, times = TextColumn("{task.completed}/{task.total} {task.fields[unit]}"), TimeElapsedColumn()
        columns = (count, BarColumn(), times, TimeRemainingColumn(), TextColumn("{task.description}"))
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self.runs = self.add_task("", total=0, unit="runs", visible=False)
        self.at = self.add_task("", total=0, unit="", visible=False)
        self._last, self._printed = "", 0.0

    def begin(self, total: int, done_before: int) -> None:
        """Say how many runs there are to make."""
        self.update(self.runs, total=total, visible=True, description=f"{done_before} done before")
        self._print(f"0/{total} runs, {done_before} done before")

    def ended(self, job: object) -> None:
        """Count a run."""
        self.update(self.runs, advance=1, description=str(job))
        runs = next(task for task in self.tasks if task.id == self.runs)
        self._print(f"{runs.completed:.0f}/{runs.total:.0f} runs: {job}")

    def stage(self, what: str, done: int, total: int, unit: str) -> None:
        """Say how far a stage is; it is shown until it is done."""
        self.update(self.at, description=what, completed=done, total=total, unit=unit, visible=done < total)
        quiet = time.monotonic() - self._printed > LINE_SECONDS
        if done == 0 or quiet or (done == total and self._last == what):
            self._last = what
            self._print(f"{done}/{total} {unit}: {what}")

    def _print(self, text: str) -> None:
        """Print a line where there is no terminal."""
        self._printed = time.monotonic()
        if self.disable:
            line = f"{datetime.now():%H:%M:%S} {text}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def showing_progress() -> Iterator[RunsProgress]:
    """Show progress as long as this lasts, also that which ``stage`` reports."""
    with RunsProgress() as progress:
        _running.append(progress)
        try:
            yield progress
        finally:
            _running.remove(progress)


def stage(what: str, done: int, total: int, unit: str) -> None:
    """Say how far something is, if this process shows progress; worker processes do not.

    Args:
        what: What is going on.
        done: Number of units that are done.
        total: Number of all units.
        unit: Such as "batches".
    """
    if _running:
        _running[-1].stage(what, done, total, unit)


class TrainingProgress(Callback):
    """Reports the batches of a training.

    Args:
        what: What is trained.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that no batch is done."""
        del pl_module
        self._report(trainer, 0)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Report the batch."""
        del args, kwargs
        self._report(trainer, trainer.global_step)

    def _report(self, trainer: Trainer, done: int) -> None:
        epochs = max(trainer.max_epochs or 0, 1)
        what = f"training {self.what}, {epochs} epochs"
        stage(what, done, epochs * int(trainer.num_training_batches), "batches")


class PredictionProgress(Callback):
    """Reports the batches of a prediction."""

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Report the batch."""
        del kwargs
        stage("test images", args[3] + 1, int(trainer.num_predict_batches[0]), "batches")
