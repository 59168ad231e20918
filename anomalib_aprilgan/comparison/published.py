# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Published numbers for comparison with measured ones: ``published.csv`` and ``vand2023.csv``, with their sources."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

# Names in the literature of models and data modules.
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
    """Return the published mean in percent, or None.

    The PRO in APRIL-GAN's paper is the authors' own; that of all other methods is the usual one.

    Args:
        model_class: Name of an anomalib model's class.
        data_class: Name of an anomalib data module's class.
        shots: Number of references.
        metric: Name of a column in tables.
    """
    method = METHODS.get(model_class)
    if metric == ("pixel_PRO" if method == "APRIL-GAN" else "pixel_PRO_authors"):
        return None
    name = "pixel_PRO" if metric == "pixel_PRO_authors" else metric
    return _numbers().get((method, shots, DATA_SETS.get(data_class), name))


@cache
def _numbers() -> dict[tuple, float]:
    table = read_table("published.csv").set_index(["method", "shots", "dataset", "metric"])
    return table["mean"].astype(float).to_dict()


def read_table(name: str) -> pd.DataFrame:
    """One of the package's tables of published numbers."""
    with (files("anomalib_aprilgan.comparison") / name).open() as file:
        return pd.read_csv(file)
