# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan report``: scores with error bars, as a page and as a PDF."""

from __future__ import annotations

from pathlib import Path

from anomalib_aprilgan.cli.errors import clear_errors


def report(
    source: Path,
    *,
    output: Path | None = None,
    labels: Path | None = None,
    other: Path | None = None,
    before: Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Write ``report.html`` and ``report.pdf`` about a table of predictions, or about a comparison.

    Args:
        source: A ``predictions.csv`` or its folder; or the output of ``aprilgan compare``.
        output: Folder of the report; default: beside the table.
        labels: CSV with the columns image_path (or the end of it) and label (good or bad). Default: the table's, else
            good in a folder named good, normal or ok, and bad in those beside it.
        other: Table of predictions of another model for the same images, to compare the two.
        before: Table of predictions of other days, or a checkpoint, to look for drift.
        resamples: Of bootstrap intervals and of the paired test.
        seed: Of both.

    Raises:
        SystemExit: With a message if a file is missing or of another kind.
    """
    with clear_errors():
        from anomalib_aprilgan.comparison.report.page import report_of, write_report  # noqa: PLC0415
        from anomalib_aprilgan.comparison.report.pairs import read_before  # noqa: PLC0415
        from anomalib_aprilgan.comparison.report.scores import read_scores  # noqa: PLC0415

        scores = read_scores(source, labels)
        second = None if other is None else read_scores(other)
        earlier = None if before is None else read_before(before)
        made = report_of(scores, second, earlier, resamples, seed)
        paths = write_report(made, output or scores.table.parent)
    print(*made.facts, *(f"Missing: {sentence}" for sentence in made.missing), *paths, sep="\n")
