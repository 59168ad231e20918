# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a report says: tables and sentences about the scores of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from anomalib_aprilgan.comparison.report import statistics
from anomalib_aprilgan.comparison.report.scores import Scores
from anomalib_aprilgan.comparison.report.statistics import Estimate
from anomalib_aprilgan.components.calibration import images_needed

RATES = (0.01, 0.02, 0.05)
SAME_IMAGES = "Thresholds that are chosen on the images that they are judged by look better than they are."


@dataclass(frozen=True)
class Table:
    """Cells as texts, with a title and a note."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Report:
    """What is on the page.

    Args:
        title: Heading.
        facts: Sentences about what was read and found.
        missing: Sentences about what can't be shown and why.
        tables: In their order.
        figures: By caption.
        pictures: Of images, by the heading of their group: PNG and caption of each.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    pictures: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)


def percent(value: float) -> str:
    """A rate in percent."""
    return f"{100 * value:.1f} %"


def span(estimate: Estimate) -> str:
    """The ends of an interval in percent."""
    return "too few images" if math.isnan(estimate.low) else f"{percent(estimate.low)} to {percent(estimate.high)}"


def of(count: int, total: int) -> str:
    """A count with its rate and the rate's interval, in words."""
    return f"{count} of {total} ({percent(count / total)}; {span(statistics.proportion(count, total))})"


def describe(scores: Scores) -> list[str]:
    """What was read: images, labels, model and threshold."""
    kinds = "without labels"
    if scores.labels_from:
        kinds = f"{len(scores.normal)} good, {len(scores.abnormal)} bad (by {scores.labels_from})"
        unknown = int(np.isnan(scores.labels).sum())
        kinds += f"; {unknown} have no label and are in no rate" if unknown else ""
    origin = f" from {scores.origin}" if scores.origin else ""
    return [
        f"{len(scores.values)} images: {kinds}",
        *([f"Model {scores.model}"] if scores.model else []),
        *([f"Threshold {scores.threshold:.4g} ({scores.kind}){origin}"] if scores.threshold is not None else []),
    ]


def of_one_kind(scores: Scores) -> list[str]:
    """False alarms or escapes at the threshold where only good or only bad images are known."""
    cut, normal, abnormal = scores.threshold, scores.normal, scores.abnormal
    if cut is None or scores.has_both_kinds:
        return []
    alarms = [f"False alarms: {of(statistics.false_alarms(normal, cut), len(normal))}"] if len(normal) else []
    missed = [f"Escapes: {of(statistics.escapes(abnormal, cut), len(abnormal))}"] if len(abnormal) else []
    return alarms + missed


def missing(scores: Scores) -> list[str]:
    """What can't be shown, and what would make it possible."""
    sentences = []
    if not scores.labels_from:
        sentences.append(
            "No labels: no false alarms, escapes and AUROC. Give --labels with the columns image_path and label, or "
            "keep good images in a folder named good."
        )
    elif not scores.has_both_kinds:
        kind = "good" if len(scores.abnormal) else "bad"
        sentences.append(f"No {kind} images: no AUROC, F1 and {'false alarms' if kind == 'good' else 'escapes'}.")
    if scores.threshold is None:
        sentences.append("No threshold: no decisions and no doubtful images. References or a validation give one.")
    return sentences


def at_threshold(scores: Scores, resamples: int, seed: int) -> Table:
    """Image AUROC, and F1 and rates at the threshold if there is one, with intervals.

    Args:
        scores: Of normal and abnormal images.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    normal, abnormal, cut = scores.normal, scores.abnormal, scores.threshold
    measures: dict[str, statistics.Statistic] = {"image AUROC": statistics.auroc}
    exact = {}
    if cut is not None:
        measures["F1"] = lambda good, bad: statistics.f1(good, bad, cut)
        measures["false-alarm rate"] = lambda good, _: statistics.false_alarms(good, cut) / len(good)
        measures["escape rate"] = lambda _, bad: statistics.escapes(bad, cut) / len(bad)
        exact["false-alarm rate"] = (statistics.false_alarms(normal, cut), len(normal))
        exact["escape rate"] = (statistics.escapes(abnormal, cut), len(abnormal))
    rows = []
    for name, measure in measures.items():
        found = statistics.bootstrapped(measure, normal, abnormal, resamples, seed)
        counted = (
            [f"{exact[name][0]} of {exact[name][1]}", span(statistics.proportion(*exact[name]))]
            if name in exact
            else ["", ""]
        )
        rows.append([name, percent(found.value), span(found), *counted])
    return Table(
        "At the threshold" if cut is not None else "Without a threshold",
        ["", "value", "95 % interval, bootstrap", "images", "95 % interval, exact"],
        rows,
        f"Bootstrap: percentiles of {resamples} draws, good and bad images apart, seed {seed}. Exact: Clopper and "
        "Pearson. Where nothing or everything was counted, only the exact interval tells how little is known.",
    )


def at_rates(scores: Scores) -> Table:
    """False alarms and escapes at the threshold and at fixed false-alarm rates of normal and abnormal images."""
    normal, abnormal = scores.normal, scores.abnormal
    cuts = {} if scores.threshold is None else {"the threshold": scores.threshold}
    cuts |= {f"{100 * rate:g} %": statistics.threshold_for_false_alarms(normal, abnormal, rate) for rate in RATES}
    rows = [
        [
            name,
            f"{cut:.4g}",
            of(statistics.false_alarms(normal, cut), len(normal)),
            of(statistics.escapes(abnormal, cut), len(abnormal)),
        ]
        for name, cut in cuts.items()
    ]
    notes = [needed(len(normal), rate) for rate in RATES]
    return Table(
        "False alarms and escapes at a false-alarm rate",
        ["at most", scores.kind, "false alarms", "escapes"],
        rows,
        " ".join([SAME_IMAGES, *filter(None, notes)]),
    )


def needed(total: int, rate: float, kind: str = "good") -> str:
    """How many images a rate in [0, 1) takes, if there are fewer; else empty.

    Args:
        total: Number of images that there are.
        rate: That is asked for.
        kind: Of the images.
    """
    if not rate:
        return f"No number of images shows that a rate is 0: {total} without one show less than {percent(3 / total)}."
    to_set, to_show = images_needed(rate), statistics.images_to_show(rate)
    if total >= to_show:
        return ""
    shown = f"To show a rate of {100 * rate:g} % takes {to_show} {kind} images without one (rule of three)"
    if total >= to_set:
        return f"{shown}, there are {total}."
    return f"{shown}, to set it {to_set}; {total} tell no rate below {percent(1 / total)}."
