# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions, and what is left out of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.compat.lightning import own_loaders
from anomalib_aprilgan.data.predict import leave_out_unreadable

COLUMNS = ("image_path", "pred_score", "threshold", "pred_label")


class PredictionsTable(Callback):
    """Writes path, score, threshold and decision of each predicted image to ``predictions.csv``, batch by batch.

    Files of a predicted folder that are no images are left out before, and named in the log.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the files, before other processes take copies of the data sets."""
        del pl_module
        if stage == TrainerFn.PREDICTING:
            leave_out_unreadable(own_loaders(trainer))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        del pl_module
        path = table_path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerow(COLUMNS)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Append the batch, which the post-processor has completed."""
        del outputs, batch_idx, dataloader_idx
        scores = batch.pred_score.tolist()
        labels = [""] * len(scores) if batch.pred_label is None else batch.pred_label.tolist()
        post_processor = pl_module.post_processor
        known = isinstance(post_processor, PostProcessor)
        thresholds = [float(post_processor.normalized_image_threshold) if known else ""] * len(scores)
        with table_path(trainer).open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows(zip(batch.image_path, scores, thresholds, labels, strict=True))


def table_path(trainer: Trainer) -> Path:
    """Where this process writes its predictions."""
    rank = trainer.global_rank
    return Path(trainer.default_root_dir) / f"predictions{f'-{rank}' if rank else ''}.csv"
