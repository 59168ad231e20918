# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of images as a table of predictions holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.report.labels import GIVEN, labels_by_file, labels_by_folder, labels_by_words
from anomalib_aprilgan.components.run_folder import TABLE

RAW, NORMALISED = "raw score", "normalised score"


@dataclass(frozen=True)
class Scores:
    """Scores of images, with what is known of labels and threshold.

    Args:
        table: File that they were read from.
        paths: Of the images (N).
        values: Scores (N,).
        kind: RAW or NORMALISED.
        labels: 1 where abnormal, 0 where normal, NaN where not known, (N,).
        labels_from: Where the labels come from, in words; empty: there are none.
        threshold: What abnormal images reach; None: not known.
        origin: Of the threshold, in words.
        model: Fingerprint of the model; empty: not known.
    """

    table: Path
    paths: list[str]
    values: NDArray
    kind: str
    labels: NDArray
    labels_from: str
    threshold: float | None
    origin: str
    model: str

    @property
    def normal(self) -> NDArray:
        """Scores of the normal images (L,)."""
        return self.values[self.labels == 0]

    @property
    def abnormal(self) -> NDArray:
        """Scores of the abnormal images (M,)."""
        return self.values[self.labels == 1]

    @property
    def has_both_kinds(self) -> bool:
        """Whether there are normal and abnormal images."""
        return bool(len(self.normal) and len(self.abnormal))


def table_at(source: Path) -> Path:
    """The table of predictions at a path, which is its own or that of the folder of a run.

    Raises:
        FileNotFoundError: If there is none.
    """
    table = source / TABLE if source.is_dir() else source
    if not table.is_file():
        msg = (
            f"There is no table of predictions {table}: give a {TABLE} of `anomalib predict` or `test`, or its folder."
        )
        raise FileNotFoundError(msg)
    return table


def read_scores(source: Path, labels: Path | None = None) -> Scores:
    """The scores in a table of predictions, by raw score and threshold if it has them.

    Labels are those of the file ``labels``, else of the column ``gt_label``, else of the folders' names.

    Args:
        source: The table, or the folder of a run.
        labels: CSV with the columns ``image_path`` and ``label``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table of predictions, or one of several runs.
    """
    table = table_at(source)
    rows = read_table(table, ["image_path"])
    twice = rows.image_path[rows.image_path.duplicated() & (rows.image_path != "")]
    if len(twice):
        msg = f"{table} has {twice.iloc[0]!r} in several rows: it mixes runs. Give the table of one."
        raise ValueError(msg)
    values, threshold, kind = _scores(rows, table)
    paths = list(rows.image_path)
    found = labels_by_words(rows.gt_label, f"{table}, column gt_label") if "gt_label" in rows else None
    origin = GIVEN if found is not None else ""
    if labels is not None:
        found, origin = labels_by_file(paths, read_table(labels, ["image_path", "label"]), labels), str(labels)
    elif found is None and (found := labels_by_folder(paths)) is not None:
        origin = "names of folders"
    unknown = np.full(len(paths), math.nan)
    texts = [_only(rows, column, table) for column in ("threshold_origin", "model")]
    return Scores(table, paths, values, kind, unknown if found is None else found, origin, threshold, *texts)


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """All columns of a CSV file as texts.

    Args:
        path: Of the file.
        columns: That it must have.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no CSV file, lacks a column, or has no rows.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
    except ValueError as error:
        msg = f"{path} can't be read as a table of comma-separated values: {error}"
        raise ValueError(msg) from error
    missing = [name for name in columns if name not in rows]
    if missing:
        msg = f"{path} lacks the column {', '.join(missing)}: it has {', '.join(map(str, rows.columns))}."
        raise ValueError(msg)
    if rows.empty:
        msg = f"{path} has no rows: its run has ended before the first image."
        raise ValueError(msg)
    return rows


def _scores(rows: pd.DataFrame, table: Path) -> tuple[NDArray, float | None, str]:
    """Scores, threshold and what they are: raw, unless there is only a normalised threshold."""
    given = [
        (name, limit) for name, limit in (("raw_score", "raw_threshold"), ("pred_score", "threshold")) if name in rows
    ]
    if not given:
        msg = f"{table} lacks the columns raw_score and pred_score: it is no table of predictions."
        raise ValueError(msg)
    limits = {name: _only(rows, limit, table) for name, limit in given}
    name = next((name for name, limit in limits.items() if limit), given[0][0])
    limit = pd.Series([limits[name]] if limits[name] else [])
    threshold = next(iter(_numbers(limit, f"{table}, threshold")), None)
    return _numbers(rows[name], f"{table}, column {name}"), threshold, RAW if name == "raw_score" else NORMALISED


def _only(rows: pd.DataFrame, column: str, table: Path) -> str:
    """The value of a column that is the same in all rows; empty if there is no such column."""
    values = list(dict.fromkeys(rows[column])) if column in rows else [""]
    if len(values) > 1:
        msg = f"{table} has several values in the column {column} ({', '.join(values[:3])}): report each run alone."
        raise ValueError(msg)
    return values[0]


def _numbers(texts: pd.Series, where: str) -> NDArray:
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=float)
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        msg = f"{where}, row {broken[0] + 1}: expected a finite number, found {texts.iloc[broken[0]]!r}."
        raise ValueError(msg)
    return numbers
