# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The figures of a report."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate

from anomalib_aprilgan.comparison.report.content import Report
from anomalib_aprilgan.comparison.report.scores import Scores

KINDS = {0.0: ("good", "tab:blue"), 1.0: ("bad", "tab:red")}
BINS = 30
SHEET = (11.7, 8.3)  # inches: A4
LINES, COLUMNS = 52, 170  # of text on a sheet


def histograms(runs: Mapping[str, Scores]) -> Figure:
    """Scores of good and bad images, or of all where there are no labels, with the threshold, by the runs' names."""
    figure = Figure(figsize=(8, 3 * len(runs)), layout="constrained")
    for axis, (name, scores) in zip(figure.subplots(len(runs), squeeze=False)[:, 0], runs.items(), strict=True):
        _draw_histogram(axis, scores)
        axis.set_title(drawable(name), parse_math=False)
    return figure


def _draw_histogram(axis: Any, scores: Scores) -> None:
    parts = {name: (scores.values[scores.labels == label], color) for label, (name, color) in KINDS.items()}
    parts["without label"] = (scores.values[np.isnan(scores.labels)], "tab:gray")
    bins = np.histogram_bin_edges(scores.values, BINS)
    for name, (values, color) in parts.items():
        if len(values):
            axis.hist(values, bins, label=f"{name} ({len(values)})", color=color, alpha=0.6)
    if scores.threshold is not None:
        axis.axvline(scores.threshold, color="black", linestyle="--", label=f"threshold {scores.threshold:.4g}")
    axis.set(xlabel=scores.kind, ylabel="images")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not on them


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    file = io.BytesIO()
    with missing_letters():
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


@contextmanager
def missing_letters() -> Iterator[None]:
    """Have letters that the font lacks drawn as boxes, without a warning of each: the page has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def drawable(text: str) -> str:
    """The text with question marks for bytes that are no letters, which file names may have."""
    return text.encode(errors="replace").decode()


def pages(report: Report) -> list[Figure]:
    """The report on sheets: sentences and tables, figures, pictures."""
    lines = lines_of(report)
    sheets = [text_page(lines[start : start + LINES]) for start in range(0, len(lines), LINES)]
    sheets += report.figures.values()
    return sheets + [pictures_page(title, images) for title, images in report.pictures.items() if images]


def lines_of(report: Report) -> list[str]:
    """Sentences and tables as text of equally wide letters."""
    sentences = [report.title, *report.facts, *(f"Missing: {text}" for text in report.missing)]
    lines = [line for sentence in sentences for line in [*textwrap.wrap(sentence, COLUMNS), ""]]
    for table in report.tables:
        cells = tabulate(table.rows, table.columns, disable_numparse=True).splitlines()
        lines += ["", table.title, "", *cells, *textwrap.wrap(table.note, COLUMNS), ""]
    return lines


def text_page(lines: Sequence[str]) -> Figure:
    """A sheet of text."""
    figure = Figure(figsize=SHEET)
    figure.text(0.05, 0.95, drawable("\n".join(lines)), fontsize=7, family="monospace", va="top", parse_math=False)
    return figure


def pictures_page(title: str, pictures: Sequence[tuple[bytes, str]]) -> Figure:
    """A sheet with pictures and their captions."""
    figure = Figure(figsize=SHEET, layout="constrained")
    figure.suptitle(title, parse_math=False)
    images = [np.asarray(Image.open(io.BytesIO(content))) for content, _ in pictures]
    columns = 2 if images[0].shape[1] > 2 * images[0].shape[0] else 5
    axes = figure.subplots(-(-len(images) // columns), columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, (_, caption) in zip(axes, images, pictures, strict=False):
        axis.imshow(image)
        axis.set_title(drawable(caption), fontsize=7, parse_math=False)
    return figure
