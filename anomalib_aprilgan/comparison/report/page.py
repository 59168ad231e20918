# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Reports as files: one page without a network, and a PDF."""

from __future__ import annotations

from base64 import b64encode
from operator import methodcaller
from pathlib import Path
from typing import BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_pdf import PdfPages

from anomalib_aprilgan.comparison.report import content, figures, pairs
from anomalib_aprilgan.comparison.report.content import Report
from anomalib_aprilgan.comparison.report.pictures import doubtful
from anomalib_aprilgan.comparison.report.scores import Scores
from anomalib_aprilgan.safe_io import write_whole

NAME = "report"


def report_of(
    scores: Scores,
    other: Scores | None = None,
    before: pairs.Before | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """The report of a table of predictions.

    Args:
        scores: In the table.
        other: Another model's scores of the same images.
        before: Of other days.
        resamples: Of bootstrap and permutation test.
        seed: Of both.

    Raises:
        ValueError: If the scores have nothing to be compared by.
    """
    report = Report(f"Scores of {scores.table}", content.describe(scores), content.missing(scores))
    report.facts += content.of_one_kind(scores)
    report.figures["Scores"] = figures.histograms({"": scores})
    if scores.has_both_kinds:
        report.tables += [content.at_threshold(scores, resamples, seed), content.at_rates(scores)]
    if other is not None:
        report.tables.append(pairs.two_models(scores, other, resamples, seed))
    if before is not None:
        report.facts.append(pairs.drifted(scores, before))
    report.pictures = doubtful(scores)
    return report


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html`` and ``report.pdf``."""
    page, sheets = folder / f"{NAME}.html", folder / f"{NAME}.pdf"
    write_whole(page, methodcaller("write", html(report).encode(errors="replace")))
    write_whole(sheets, lambda file: _write_pdf(report, file))
    return [page, sheets]


def html(report: Report) -> str:
    """The page, with its images in it."""
    loader = PackageLoader(__package__, "")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")
    drawn = {caption: _text(figures.png(figure)) for caption, figure in report.figures.items()}
    pictures = {
        title: [(_text(image), caption) for image, caption in images]
        for title, images in report.pictures.items()
        if images
    }
    return template.render(report=report, figures=drawn, pictures=pictures)


def _text(image: bytes) -> str:
    return b64encode(image).decode()


def _write_pdf(report: Report, file: BinaryIO) -> None:
    with PdfPages(file) as pdf:
        for sheet in figures.pages(report):
            pdf.savefig(sheet)
