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
        if resamples < 1:
            msg = f"`resamples` must be a whole number from 1, got {resamples}."
            raise ValueError(msg)
        from anomalib_aprilgan.comparison.report import page, pairs, runs, scores  # noqa: PLC0415

        if runs.is_comparison(source):
            if {labels, other, before} != {None}:
                msg = "A comparison has labels and models of its own: leave out `labels`, `other` and `before`."
                raise ValueError(msg)
            folder = source if source.is_dir() else source.parent
            made = runs.report_of_comparison(folder, resamples, seed)
        else:
            first = scores.read_scores(source, labels)
            second = None if other is None else scores.read_scores(other)
            earlier = None if before is None else pairs.read_before(before)
            made, folder = page.report_of(first, second, earlier, resamples, seed), first.table.parent
        paths = page.write_report(made, output or folder)
    print(*made.facts, *(f"Missing: {sentence}" for sentence in made.missing), *paths, sep="\n")
