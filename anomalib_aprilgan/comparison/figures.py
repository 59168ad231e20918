# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Figures: anomaly maps side by side, and metrics against the number of references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.grid import POOL, Job, Shots, shots_name, slug, unique_slug
from anomalib_aprilgan.comparison.means import METRICS, measured, over_categories
from anomalib_aprilgan.comparison.results import KEY
from anomalib_aprilgan.comparison.thumbnails import Thumbnails, old_thumbnails_path, read_thumbnails, thumbnails_path
from anomalib_aprilgan.safe_io import write_whole

FORMATS = ("png", "pdf")
CELL = 1.6  # inches
COLORS = "turbo"
DEFAULT_METRICS = ["image_AUROC", "pixel_F1Max", "pixel_PRO"]


def map_figures(
    results: pd.DataFrame, output: Path, models: Sequence[str] | None, shots: Sequence[Shots] | None
) -> dict[str, Figure]:
    """One figure per category: test images in columns; image, ground truth and the maps of each model in rows.

    Each row has one colour scale, from the smallest to the largest value over all test images of the category, so that
    normal images do not look hot. Models differ in units, so rows do not share a scale.

    Args:
        results: Rows of all runs.
        output: Folder of the comparison, with the thumbnails.
        models: Those to draw; None: all.
        shots: Numbers of references to draw; None: all.

    Raises:
        ValueError: If a model or number of references has no finished run.
    """
    figures = {}
    names = _file_names("maps", results, ["dataset", "category"])
    for key, runs in _chosen(results, models, shots).groupby(["dataset", "category"], sort=False):
        rows = {}
        for run in runs.to_dict("records"):
            thumbnails = _thumbnails_of(run, output)
            if thumbnails:
                rows[f"{run['model']}\n{shots_name(run['shots']) if run['shots'] else 'zero-shot'}"] = thumbnails
        if rows:
            figures[names[key]] = draw_maps(rows, ": ".join(key))
    return figures


def _thumbnails_of(run: dict[str, Any], output: Path) -> Thumbnails | None:
    job = Job(**{name: run[name] for name in KEY})
    path = thumbnails_path(output, job)
    if not path.exists() and not isinstance(run.get("fingerprints"), dict):  # a row of before
        path = old_thumbnails_path(output, job)
    return read_thumbnails(path)


def _file_names(kind: str, results: pd.DataFrame, columns: list[str]) -> dict[tuple[str, ...], str]:
    """A file name for each data set or category, which no other has."""
    keys = list(results[columns].drop_duplicates().itertuples(index=False, name=None))
    plain = {key: "_".join([kind, *map(slug, key)]) for key in keys}
    count = Counter(name.casefold() for name in plain.values())
    return {key: name if count[name.casefold()] == 1 else unique_slug(kind, *key) for key, name in plain.items()}


def draw_maps(rows: dict[str, Thumbnails], title: str) -> Figure:
    """The figure of one category from the thumbnails of its runs."""
    first = next(iter(rows.values()))
    n_columns = len(first["images"])
    figure = Figure(figsize=(CELL * (n_columns + 0.8), CELL * (len(rows) + 2)), layout="compressed")
    # The last column is for colour bars.
    axes = figure.subplots(len(rows) + 2, n_columns + 1, squeeze=False, width_ratios=[1] * n_columns + [0.06])
    for axis in axes[:2, -1]:
        axis.set_axis_off()
    _draw_row(axes[0, :-1], first["images"], "image")
    _draw_row(axes[1, :-1], first["masks"], "ground truth", cmap="gray", vmin=0, vmax=1)
    for row, (name, arrays) in zip(axes[2:], rows.items(), strict=True):
        low, high = arrays["range"].tolist()
        drawn = _draw_row(row[:-1], arrays["maps"].astype(np.float32), name, cmap=COLORS, vmin=low, vmax=high)
        figure.colorbar(drawn, cax=row[-1])
    figure.suptitle(title)
    return figure


def _draw_row(axes: NDArray, images: NDArray, name: str, **options: object) -> mpl.cm.ScalarMappable:
    for axis, image in zip(axes, images, strict=True):
        drawn = axis.imshow(image, **options)
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(name)
    return drawn


def shots_figures(
    results: pd.DataFrame, metrics: Sequence[str], models: Sequence[str] | None, shots: Sequence[Shots] | None
) -> dict[str, Figure]:
    """One figure per data set: each metric against the number of references, one line per model.

    Points are means over seeds, bars are sample standard deviations.

    Args:
        results: Rows of all runs.
        metrics: Names of columns in tables.
        models: Those to draw; None: all.
        shots: Numbers of references to draw; None: all.

    Raises:
        ValueError: If a metric is unknown, or a model or number of references has no finished run.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        msg = f"`metrics` {unknown} are not among {METRICS}."
        raise ValueError(msg)
    means, _ = over_categories(_chosen(measured(results), models, shots), results)
    figures = {}
    names = _file_names("shots", results, ["dataset"])
    for dataset, part in means.groupby("dataset", sort=False):
        figure = Figure(figsize=(4 * len(metrics), 3.2), layout="constrained")
        ticks = sorted(part.shots.unique())
        labels = [shots_name(k).removesuffix("-shot") for k in ticks]
        for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            for model, lines in part.groupby("model", sort=False):
                points = 100 * lines.groupby("shots")[metric].agg(["mean", "std"])
                if POOL in points.index:  # no line from there to references
                    points = points.reindex(sorted({POOL + 0.5, *points.index}))
                axis.errorbar(points.index, points["mean"], points["std"].fillna(0), label=model, marker="o", capsize=3)
            axis.set(xlabel="reference images", ylabel=f"{metric} (%)", xticks=ticks, xticklabels=labels)
            axis.grid(alpha=0.3)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=len(part.model.unique()))
        figures[names[dataset,]] = figure
    return figures


def save(figures: dict[str, Figure], output: Path) -> list[Path]:
    """Write the figures as PNG and PDF into ``output / "figures"``."""
    paths = [output / "figures" / f"{name}.{suffix}" for name in figures for suffix in FORMATS]
    for path in paths:
        write_whole(path, partial(figures[path.stem].savefig, format=path.suffix[1:], dpi=120))
    return paths


def _chosen(results: pd.DataFrame, models: Sequence[str] | None, shots: Sequence[Shots] | None) -> pd.DataFrame:
    """The finished runs of some models and numbers of references; None: all.

    Raises:
        ValueError: If a model or number of references has no finished run.
    """
    chosen = results[results.status == "ok"]
    numbers = None if shots is None else [POOL if k == "pool" else k for k in shots]
    for name, column, wanted in (("models", "model", models), ("shots", "shots", numbers)):
        missing = [value for value in wanted or [] if value not in set(chosen[column])]
        if missing:
            msg = f"`{name}` {missing} have no finished run: the results have {sorted(set(chosen[column]))}."
            raise ValueError(msg)
        chosen = chosen if wanted is None else chosen[chosen[column].isin(wanted)]
    return chosen
