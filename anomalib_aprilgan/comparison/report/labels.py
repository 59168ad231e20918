# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which images are normal: by words in a table, by a file of labels, or by the names of folders."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

GIVEN = "column gt_label"
NORMAL_FOLDERS = {"good", "normal", "ok"}
NORMAL_WORDS = {*NORMAL_FOLDERS, "0", "0.0", "false"}
ABNORMAL_WORDS = {"abnormal", "anomaly", "bad", "defect", "ng", "1", "1.0", "true"}


def labels_by_words(words: pd.Series, where: str) -> NDArray | None:
    """Labels (N,): 1 where abnormal, 0 where normal, NaN where a word is empty; None if all are.

    Raises:
        ValueError: If a word is neither.
    """
    known = {**dict.fromkeys(NORMAL_WORDS, 0.0), **dict.fromkeys(ABNORMAL_WORDS, 1.0), "": math.nan}
    plain = [word.strip().lower() for word in words]
    for row, word in enumerate(plain, start=1):
        if word not in known:
            msg = f"{where}, row {row}: expected good or bad (or 0 or 1), found {words.iloc[row - 1]!r}."
            raise ValueError(msg)
    return np.asarray([known[word] for word in plain]) if any(plain) else None


def labels_by_folder(paths: Sequence[str]) -> NDArray | None:
    """Labels (N,) by folders: normal in one named good, normal or ok, abnormal in others beside it, else NaN.

    None if there is no folder of normal images.
    """
    folders = [Path(path).parent for path in paths]
    good = {folder for folder in folders if folder.name.lower() in NORMAL_FOLDERS}
    beside = {folder.parent for folder in good}
    labels = [0.0 if folder in good else 1.0 if folder.parent in beside else math.nan for folder in folders]
    return np.asarray(labels) if good else None


def labels_by_file(paths: Sequence[str], rows: pd.DataFrame, file: Path) -> NDArray:
    """Labels (N,) of a table; NaN where it has none.

    Args:
        paths: Of the images (N).
        rows: With ``image_path``, the path of an image or the end of it, and ``label``.
        file: That they are from.

    Raises:
        ValueError: If a word is no label, a path means several images, an image has two labels, or none has one.
    """
    values = labels_by_words(rows.label, f"{file}, column label")
    ends = defaultdict(list)
    for index, path in enumerate(paths):
        ends[Path(path).name].append(index)
    labels, unused = np.full(len(paths), math.nan), []
    for given, value in zip(rows.image_path, [math.nan] * len(rows) if values is None else values, strict=True):
        parts = Path(given).parts
        found = [index for index in ends[Path(given).name] if Path(paths[index]).parts[-len(parts) :] == parts]
        if len(found) > 1 or (found and labels[found[0]] == 1 - value):
            problem = "means several images: write more of the path" if len(found) > 1 else "has two labels"
            msg = f"{file}: {given!r} {problem}."
            raise ValueError(msg)
        labels[found] = value
        unused += [] if found else [given]
    if np.isnan(labels).all():
        first = rows.image_path[0]
        msg = f"{file} has no label of an image of the table, such as {paths[0]!r}: its first path is {first!r}."
        raise ValueError(msg)
    if unused:
        logger.warning("%s: %d images are not in the table, such as %r", file, len(unused), unused[0])
    return labels
