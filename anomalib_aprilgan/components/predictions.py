# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions, and what is left out of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.compat import tiles
from anomalib_aprilgan.compat.lightning import own_loaders
from anomalib_aprilgan.components.run_folder import TABLE, RunFolder
from anomalib_aprilgan.data.predict import leave_out_unreadable

COLUMNS = ("image_path", "pred_score", "threshold", "pred_label")


class PredictionsTable(RunFolder):
    """Writes path, score, threshold and decision of each predicted image to ``predictions.csv``, batch by batch.

    Files of a predicted folder that are no images are left out before, and named in the log.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the files, before other processes take copies of the data sets."""
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.PREDICTING:
            leave_out_unreadable(own_loaders(trainer))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table in a folder of its own."""
        del pl_module
        header = _as_text([COLUMNS])
        self._claim(trainer, header)
        table = table_path(trainer)
        if table.name != TABLE:
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_bytes(header.encode())

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
        rows = _as_text(zip(batch.image_path, scores, thresholds, labels, strict=True))
        with table_path(trainer).open("ab", buffering=0) as file:
            file.write(rows.encode(errors="surrogateescape"))  # in one step: all processes of a run append to one table


def table_path(trainer: Trainer) -> Path:
    """Where the predictions are written: one table for a run, or for a tile of an ensemble."""
    tile = tiles.index(trainer)
    return Path(trainer.default_root_dir) / (f"predictions{tile[0]}_{tile[1]}.csv" if tile else TABLE)


def _as_text(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
