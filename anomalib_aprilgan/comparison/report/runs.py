# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a comparison: each run with error bars, and models side by side on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anomalib_aprilgan.comparison.grid import Job
from anomalib_aprilgan.comparison.image_scores import scores_path
from anomalib_aprilgan.comparison.report import figures, pairs, statistics
from anomalib_aprilgan.comparison.report.content import RATES, Report, Table, of
from anomalib_aprilgan.comparison.report.scores import Scores, read_scores
from anomalib_aprilgan.comparison.results import FILE, KEY, read_results

Runs = dict[str, Scores]  # by model


def is_comparison(source: Path) -> bool:
    """Whether this is the output of a comparison, or the file of its results."""
    return source.name == FILE or (source / FILE).exists()


def report_of_comparison(output: Path, resamples: int = 2000, seed: int = 0) -> Report:
    """The report of all finished runs whose scores are kept.

    Args:
        output: Of the comparison.
        resamples: Of bootstrap and permutation test.
        seed: Of both.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If no run has kept its scores.
    """
    results = read_results(output)
    results = results[results.status == "ok"]
    report = Report(f"Comparison in {output}")
    without = []
    for keys, group in results.groupby(["dataset", "category", "shots", "seed"], sort=False):
        jobs = [Job(**{name: row[name] for name in KEY}) for row in group.to_dict("records")]
        files = {job.model: scores_path(output, job) for job in jobs}
        without += [model for model, file in files.items() if not file.exists()]
        runs = {model: read_scores(file) for model, file in files.items() if file.exists()}
        if runs:
            add_runs(report, "{}: {}, {}-shot, seed {}".format(*keys), runs, resamples, seed)
    if len(without) == len(results):
        msg = f"{output} holds no scores of images, as in earlier versions: run `aprilgan compare` with a new `output`."
        raise ValueError(msg)
    report.facts.append(f"{len(results) - len(without)} runs")
    if without:
        report.missing.append(f"{len(without)} runs of an earlier version, which kept no scores of images")
    return report


def add_runs(report: Report, name: str, runs: Runs, resamples: int, seed: int) -> None:
    """Add a group of runs on the same images to the report.

    Args:
        report: To be added to.
        name: Of the group.
        runs: By model.
        resamples: Of bootstrap and permutation test.
        seed: Of both.
    """
    first, *others = runs
    paired = {model: pairs.pair_of(runs[first], runs[model]) for model in others}
    rows = pairs.compare_models(first, (runs[first].normal, runs[first].abnormal), paired, resamples, seed)
    report.tables.append(Table(name, pairs.COLUMNS, rows, pairs.NOTE if others else ""))
    report.tables.append(at_rates(f"{name}: escapes at a false-alarm rate", runs))
    report.figures[name] = figures.histograms(runs)


def at_rates(title: str, runs: Mapping[str, Scores]) -> Table:
    """Escapes of each model at thresholds that keep a false-alarm rate on the same images."""
    rows = []
    for model, scores in runs.items():
        both = (scores.normal, scores.abnormal)
        cuts = [statistics.threshold_for_false_alarms(*both, rate) for rate in RATES]
        rows.append([model, *(of(statistics.escapes(both[1], cut), len(both[1])) for cut in cuts)])
    return Table(title, ["", *(f"at most {100 * rate:g} %" for rate in RATES)], rows)
