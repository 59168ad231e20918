# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions that ``anomalib predict`` writes beside the visualizations."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

COLUMNS = ("image_path", "pred_score", "threshold", "pred_label")


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
