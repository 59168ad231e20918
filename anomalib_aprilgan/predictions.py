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
from torchvision.transforms.v2.functional import resize

from anomalib_aprilgan.data.images import has_sixteen_bits, read_rgb, readable

COLUMNS = ("image_path", "pred_score", "pred_label")


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


def restore_sixteen_bits(batch: Any) -> None:
    """Read 16-bit grayscale images of the batch again, most of whose levels anomalib's reader turns into white."""
    for index, path in enumerate(batch.image_path or []):
        if has_sixteen_bits(path):
            image = read_rgb(path).to(batch.image)
            batch.image[index] = resize(image, list(batch.image.shape[-2:]), antialias=True)


def start_table(path: Path) -> None:
    """Write the head of a new table of predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(COLUMNS)


def add_to_table(path: Path, batch: Any) -> None:
    """Append the batch's scores, of which 0.5 is the threshold, and decisions, which only a post-processor makes."""
    scores = batch.pred_score.tolist()
    labels = [""] * len(scores) if batch.pred_label is None else batch.pred_label.tolist()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(zip(batch.image_path, scores, labels, strict=True))
