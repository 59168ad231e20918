# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Scores beside other scores: another model's of the same images, or those of other days."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.report import statistics
from anomalib_aprilgan.comparison.report.content import Table, percent, span
from anomalib_aprilgan.comparison.report.scores import RAW, Scores, read_scores
from anomalib_aprilgan.comparison.report.statistics import Pair
from anomalib_aprilgan.components.checkpoint import WholeCheckpointIO
from anomalib_aprilgan.lightning_model import AprilGan

COLUMNS = ["", "image AUROC", "95 % interval", "difference", "95 % interval", "p"]
NOTE = (
    "Differences are to the first row, with the same draws for both models. p: permutation test of ranks, paired by "
    "image; a small p says that chance alone seldom makes such a difference."
)


def pair_of(first: Scores, second: Scores) -> Pair:
    """The scores of the labelled images that are in both tables, found by their paths.

    Args:
        first: Whose labels are used.
        second: Of the same images, or some of them.

    Raises:
        ValueError: If they share no normal or no abnormal image.
    """
    there = dict(zip(second.paths, second.values, strict=True))
    shared = np.asarray([path in there for path in first.paths])
    sides = [(first.labels == label) & shared for label in (0, 1)]
    if not all(side.any() for side in sides):
        msg = (
            f"{first.table} and {second.table} share no good or no bad image: predict the same files with both models."
        )
        raise ValueError(msg)
    others = np.asarray([there.get(path, math.nan) for path in first.paths])
    return Pair(*((values[sides[0]], values[sides[1]]) for values in (first.values, others)))


def compare_models(
    first: str, scores: tuple[NDArray, NDArray], pairs: Mapping[str, Pair], resamples: int, seed: int
) -> list[list[str]]:
    """Rows of a table: image AUROC of models on the same images, with intervals, and differences to the first.

    Args:
        first: Name of the first model.
        scores: Its scores of normal and abnormal images.
        pairs: By the name of the second model.
        resamples: Of bootstrap and permutation test.
        seed: Of both.
    """
    rows = [[first, *_auroc(scores, resamples, seed), "", "", ""]]
    for name, pair in pairs.items():
        found = pair.difference(resamples, seed)
        ends = "too few images" if math.isnan(found.low) else f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
        p = f"{pair.p_value(resamples, seed):.2g}"
        rows.append([name, *_auroc(pair.second, resamples, seed), f"{100 * found.value:+.1f}", ends, p])
    return rows


def _auroc(scores: tuple[NDArray, NDArray], resamples: int, seed: int) -> list[str]:
    found = statistics.bootstrapped(statistics.auroc, *scores, resamples, seed)
    return [percent(found.value), span(found)]


def two_models(first: Scores, second: Scores, resamples: int, seed: int) -> Table:
    """Two models on the images that are in both tables.

    Args:
        first: Whose labels are used.
        second: Of the other model.
        resamples: Of bootstrap and permutation test.
        seed: Of both.

    Raises:
        ValueError: If they share no normal or no abnormal image.
    """
    pair = pair_of(first, second)
    count = sum(map(len, pair.first))
    rows = compare_models(str(first.table), pair.first, {str(second.table): pair}, resamples, seed)
    return Table("Two models on the same images", COLUMNS, rows, f"{count} labelled images are in both. {NOTE}")


@dataclass(frozen=True)
class Before:
    """Scores to compare today's with.

    Args:
        name: What they are of, in words.
        values: (M,).
        kind: "raw score" or "normalised score".
        model: Fingerprint of the model; empty: not known.
    """

    name: str
    values: NDArray
    kind: str
    model: str = ""


def read_before(source: Path) -> Before:
    """The scores in a table of predictions, of good images if it has labels; or those of a checkpoint's references.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it can't be read, or the checkpoint does not hold them.
    """
    if source.suffix != ".ckpt":
        scores = read_scores(source)
        return Before(f"{source}", good_or_all(scores), scores.kind, scores.model)
    content = WholeCheckpointIO(AprilGan.checkpoint_safe_globals()).load_checkpoint(source)
    values = (content.get("anomalib_post_processor_config") or {}).get("normal_scores")
    if not values:
        msg = f"{source} holds no scores of normal images: give a table of predictions of earlier good images."
        raise ValueError(msg)
    return Before(f"the normal images of {source}", np.asarray(values), RAW)


def good_or_all(scores: Scores) -> NDArray:
    """The scores of the normal images, or of all if none is known to be normal."""
    return scores.normal if len(scores.normal) else scores.values


def drifted(today: Scores, before: Before) -> str:
    """Whether the scores of today's images differ from those of before, in plain words.

    Raises:
        ValueError: If the scores are of other models or of another kind.
    """
    if today.kind != before.kind or (today.model and before.model and today.model != before.model):
        msg = (
            f"The scores of {today.table} ({today.kind}, model {today.model or 'unknown'}) do not compare with those "
            f"of {before.name} ({before.kind}, model {before.model or 'unknown'}): predict both with the same model."
        )
        raise ValueError(msg)
    values = good_or_all(today)
    p, word = statistics.drift(values, before.values)
    kind = "good images" if len(today.normal) else "images"
    facts = (
        f"{len(values)} and {len(before.values)} scores, medians {np.median(values):.4g} and "
        f"{np.median(before.values):.4g}; p = {p:.2g}, Kolmogorov-Smirnov"
    )
    if word == "alike":
        return f"No drift is seen: the scores of today's {kind} differ from those of {before.name} by chance ({facts})."
    than = "from" if word == statistics.SPREAD else "than"
    mixed = "" if len(today.normal) else " Defects among today's images raise scores too."
    return f"Drift: the scores of today's {kind} are {word} {than} those of {before.name} ({facts}).{mixed}"
