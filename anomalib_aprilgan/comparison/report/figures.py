# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The figures of a report."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from anomalib_aprilgan.comparison.report.content import Report, Table
from anomalib_aprilgan.comparison.report.scores import Scores

KINDS = {0.0: ("good", "tab:blue"), 1.0: ("bad", "tab:red")}
BINS = 30
PAGE = (11.7, 8.3)  # inches: A4
ROWS_PER_PAGE = 24


def histogram(scores: Scores) -> Figure:
    """Scores of good and bad images, or of all where there are no labels, with the threshold."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axis = figure.subplots()
    parts = {name: (scores.values[scores.labels == label], color) for label, (name, color) in KINDS.items()}
    parts["without label"] = (scores.values[np.isnan(scores.labels)], "tab:gray")
    bins = np.histogram_bin_edges(scores.values, BINS)
    for name, (values, color) in parts.items():
        if len(values):
            axis.hist(values, bins, label=f"{name} ({len(values)})", color=color, alpha=0.6)
    if scores.threshold is not None:
        axis.axvline(scores.threshold, color="black", linestyle="--", label=f"threshold {scores.threshold:.4g}")
    axis.set(xlabel=scores.kind, ylabel="images")
    axis.legend()
    return figure


def differences(names: Sequence[str], centers: Sequence[float], ends: Sequence[tuple[float, float]]) -> Figure:
    """Image AUROC of each run in percent, as a point with its interval.

    Args:
        names: Of the runs (R).
        centers: AUROC in [0, 1].
        ends: Of the intervals; NaN where there are none.
    """
    figure = Figure(figsize=(8, 1 + 0.28 * len(names)), layout="constrained")
    axis = figure.subplots()
    values, spans = 100 * np.asarray(centers), 100 * np.asarray(ends).T
    axis.errorbar(values, range(len(names)), xerr=np.abs(spans - values), fmt="o", capsize=3)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("image AUROC (%), 95 % interval")
    axis.grid(alpha=0.3)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def pages(report: Report) -> list[Figure]:
    """The report on sheets: sentences and tables, figures, pictures."""
    sheets = [text_page(report.title, [*report.facts, *(f"Missing: {text}" for text in report.missing)])]
    for table in report.tables:
        portions = range(0, len(table.rows), ROWS_PER_PAGE)
        sheets += [table_page(table, table.rows[start : start + ROWS_PER_PAGE]) for start in portions]
    sheets += report.figures.values()
    return sheets + [pictures_page(title, images) for title, images in report.pictures.items() if images]


def text_page(title: str, sentences: Sequence[str]) -> Figure:
    """A sheet with a heading and sentences."""
    figure = Figure(figsize=PAGE)
    figure.text(0.05, 0.92, title, fontsize=18, parse_math=False)
    for row, sentence in enumerate(sentences):
        figure.text(0.05, 0.85 - 0.07 * row, f"• {sentence}", fontsize=10, wrap=True, va="top", parse_math=False)
    return figure


def table_page(table: Table, rows: Sequence[Sequence[str]]) -> Figure:
    """A sheet with some rows of a table."""
    figure = Figure(figsize=PAGE)
    axis = figure.add_axes((0.05, 0.2, 0.9, 0.7))
    axis.set_axis_off()
    drawn = axis.table(cellText=rows, colLabels=table.columns, loc="upper center", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.auto_set_column_width(range(len(table.columns)))
    figure.text(0.05, 0.93, table.title, fontsize=14, parse_math=False)
    figure.text(0.05, 0.15, table.note, fontsize=8, wrap=True, va="top", parse_math=False)
    return figure


def pictures_page(title: str, images: Sequence[tuple[bytes, str]], columns: int = 5) -> Figure:
    """A sheet with pictures and their captions."""
    figure = Figure(figsize=PAGE, layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(-(-len(images) // columns), columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (content, caption) in zip(axes, images, strict=False):
        axis.imshow(np.asarray(Image.open(io.BytesIO(content))))
        axis.set_title(caption, fontsize=6, wrap=True, parse_math=False)
    return figure
