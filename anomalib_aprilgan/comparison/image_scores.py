# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The scores of each test image of a run, kept beside the results as a table of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.grid import Job, unique_slug
from anomalib_aprilgan.safe_io import write_whole

FOLDER = "scores"
SCORES = "scores"  # in a row, until it is written to the results


def score_rows(paths: Sequence[str], scores: NDArray, labels: NDArray) -> dict[str, list]:
    """Columns of the table of a run.

    Args:
        paths: Of the test images (B).
        scores: Raw scores (B,).
        labels: True where abnormal (B,).
    """
    return {"image_path": list(paths), "raw_score": scores.tolist(), "gt_label": labels.tolist()}


def scores_path(output: Path, job: Job) -> Path:
    """The file of a run's scores."""
    return output / FOLDER / f"{unique_slug(*map(str, astuple(job)))}.csv"


def save_scores(path: Path, columns: dict[str, list]) -> None:
    """Write the table, and the folder if there is none."""
    text = pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")
    write_whole(path, lambda file: file.write(text.encode(errors="surrogateescape")))
