# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Published numbers, beside which measured ones are put: ``published.csv`` and ``vand2023.csv`` with their sources."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import pandas as pd

# Classes of models and data modules under the names that the literature gives them.
METHODS = {
    "AprilGan": "APRIL-GAN",
    "WinClip": "WinCLIP",
    "Patchcore": "PatchCore",
    "Padim": "PaDiM",
    "Spade": "SPADE",
    "AnomalyDINO": "AnomalyDINO",
}
DATA_SETS = {"MVTecAD": "MVTecAD", "Visa": "VisA"}


def published_number(model_class: str, data_class: str, shots: int, metric: str) -> float | None:
    """The published mean in percent, or None.

    The PRO that APRIL-GAN's report prints is the authors' own, that of all other methods is not.
    """
    method = METHODS.get(model_class)
    own_pro = method == "APRIL-GAN"
    if metric == ("pixel_PRO" if own_pro else "pixel_PRO_authors"):
        return None
    name = "pixel_PRO" if metric == "pixel_PRO_authors" else metric
    return _numbers().get((method, shots, DATA_SETS.get(data_class), name))


@cache
def _numbers() -> dict[tuple, float]:
    table = read_table("published.csv")
    keys = zip(table.method, table.shots, table.dataset, table.metric, strict=True)
    return dict(zip(keys, table["mean"].astype(float), strict=True))


def read_table(name: str) -> pd.DataFrame:
    """One of the package's tables of published numbers."""
    with as_file(files("anomalib_aprilgan.comparison") / name) as path:
        return pd.read_csv(path)
