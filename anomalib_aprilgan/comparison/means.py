# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The finished runs of a comparison, and their means over categories."""

from __future__ import annotations

import pandas as pd

from anomalib_aprilgan.comparison.grid import shots_name
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS

METRICS = [*IMAGE_METRICS, *PIXEL_METRICS, "VAND"]
COSTS = ["seconds_per_image", "peak_memory_mib"]
GROUP = ["dataset", "data_class", "shots", "model", "model_class"]
ERROR_LENGTH = 300


def measured(results: pd.DataFrame) -> pd.DataFrame:
    """The finished runs, with the VAND score of each category: the harmonic mean of image and pixel F1-max.

    Raises:
        ValueError: If no run has finished.
    """
    runs = results[results.status == "ok"].copy()
    if not len(runs):
        msg = f"There are no finished runs to make a table or figure of. {failures(results)[0]}"
        raise ValueError(msg)
    columns = [*IMAGE_METRICS, *PIXEL_METRICS, *COSTS]
    runs[columns] = runs[columns].astype(float)
    total = runs.image_F1Max + runs.pixel_F1Max
    runs["VAND"] = (2 * runs.image_F1Max * runs.pixel_F1Max / total.where(total > 0)).where(total != 0, 0.0)
    return runs


def over_categories(runs: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The mean over categories of each data set, model, number of references and seed, and notes on what is left out.

    A seed that lacks a category is left out: its mean would be over easier or harder categories than the others.
    """
    expected = results.groupby("dataset").category.nunique()
    counts = runs.groupby([*GROUP, "seed"]).category.transform("nunique")
    complete = counts == runs.dataset.map(expected)
    notes = [
        f"Left out: {model} on {dataset}, {shots_name(shots)}, seed {seed}: "
        f"{len(part)} of {expected[dataset]} categories."
        for (dataset, shots, model, seed), part in runs[~complete].groupby(["dataset", "shots", "model", "seed"])
    ]
    # NumPy's mean is NaN if a category has no number; that of pandas would leave the category out.
    means = (
        runs[complete]
        .groupby([*GROUP, "seed"], sort=False)[[*METRICS, *COSTS]]
        .agg(lambda values: values.to_numpy().mean())
    )
    return means.reset_index(), notes


def failures(results: pd.DataFrame) -> list[str]:
    """A note for each failed run, with the first line of its error."""
    return [
        f"Failed: {row.model} on {row.dataset}/{row.category}, {shots_name(row.shots)}, seed {row.seed}: "
        f"{row.error.strip().splitlines()[0][:ERROR_LENGTH]}"
        for row in results[results.status != "ok"].itertuples()
    ]
