# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What ``anomalib predict`` reads besides images, and the table that it writes beside the pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalib.data import PredictDataset
from lightning.pytorch import Trainer

from anomalib_aprilgan.data.images import readable

COLUMNS = ("image_path", "pred_score", "threshold", "pred_label")


def path_datasets(trainer: Trainer) -> Iterator[PredictDataset]:
    """The data sets that anomalib made of an image or a folder to predict."""
    for loader in trainer.predict_dataloaders if isinstance(trainer.predict_dataloaders, list) else []:
        if isinstance(getattr(loader, "dataset", None), PredictDataset):
            yield loader.dataset


def leave_out_unreadable(trainer: Trainer) -> None:
    """Take files that are no images out of the folder to be predicted, before one of them stops the rest.

    Raises:
        ValueError: If no image is left.
    """
    for dataset in path_datasets(trainer):
        dataset.image_filenames = readable(dataset.image_filenames)


def start_table(path: Path) -> None:
    """Write the head of a new table of predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(COLUMNS)


def add_to_table(path: Path, batch: Any, threshold: float | None) -> None:
    """Append the batch's scores, and the threshold and decisions if a post-processor makes any."""
    scores = batch.pred_score.tolist()
    thresholds = ["" if threshold is None else threshold] * len(scores)
    labels = [""] * len(scores) if batch.pred_label is None else batch.pred_label.tolist()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(zip(batch.image_path, scores, thresholds, labels, strict=True))
