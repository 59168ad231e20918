# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A pass over the test images that several runs share: each batch is encoded once and scored for each run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from anomalib_aprilgan.comparison.collector import Predictions, now
from anomalib_aprilgan.comparison.grid import Job
from anomalib_aprilgan.components.arguments import check_precision
from anomalib_aprilgan.lightning_model import AprilGan
from anomalib_aprilgan.maps import check_finite
from anomalib_aprilgan.target import Target


@dataclass(eq=False)
class Run:
    """One run of a sweep: what it needs, what it predicts, or why it failed.

    Args:
        job: The run.
        predictions: With text scores in place of image scores, which need the peaks of all images' maps.
        references: Paths of its reference images.
        target: What it looks for.
        peaks: Of the anomaly maps, per batch (B,).
        error: Why it failed.
    """

    job: Job
    predictions: Predictions
    references: list[str] = field(default_factory=list)
    target: Target | None = None
    peaks: list[Tensor] = field(default_factory=list)
    error: Exception | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """An error fails this run, not the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is the result of the run
            self.error = error
            self.predictions.maps.clear()


class SharedPass(LightningModule):
    """Encodes each batch once and scores it for each run.

    Args:
        model: The AprilGan.
        zero_shot: The target without references, whose maps are part of those of all runs.
        runs: With their targets.
    """

    def __init__(self, model: AprilGan, zero_shot: Target, runs: Sequence[Run]) -> None:
        super().__init__()
        self.april_gan, self.zero_shot, self.runs = model, zero_shot, runs
        self._start = 0.0

    @property
    def pre_processor(self) -> Any:
        """Where anomalib's data modules look for it."""
        return self.april_gan.pre_processor

    def configure_callbacks(self) -> list[Callback]:
        """The pre-processor; before data are set up."""
        check_precision(str(self.trainer.precision))
        return [self.pre_processor] if isinstance(self.pre_processor, Callback) else []

    def setup(self, stage: str) -> None:
        """Check that the data fit the model."""
        self.april_gan.setup(stage)

    def on_predict_start(self) -> None:
        """Load named adapters, which may depend on the data."""
        self.april_gan.load_adapters()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Start the clock."""
        del dataloader_idx
        self._start = now(self.device)
        return batch

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Score a batch for all runs that have not failed."""
        del batch_idx
        model = self.april_gan.model
        encoded = model.encode(batch.image)
        zero_shot = model.score_parts(encoded, self.zero_shot)
        shared = now(self.device) - self._start
        for run in self.runs:
            if run.error is not None or run.target is None:
                continue
            with run.recorded():
                start = now(self.device)
                text, maps = model.score_parts(encoded, run.target, zero_shot)
                peaks = model.map_peaks(maps)
                check_finite(text + peaks, "scores", batch.image_path)
                run.predictions.add(batch.image_path, text, maps, shared + now(self.device) - start)
                run.peaks.append(peaks.cpu())
        errors = [run.error for run in self.runs if run.error is not None]
        if len(errors) == len(self.runs):
            raise errors[0]
