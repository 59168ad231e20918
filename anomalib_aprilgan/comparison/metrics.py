# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of raw scores: pure functions of numpy arrays, the same for images and pixels and for every model.

Ranking the scores once gives all of them: every threshold's counts are a cumulative sum along the ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_regions

Array = NDArray

FALSE_POSITIVE_LIMIT = 0.3
AUTHORS_STEPS = 200


@dataclass(frozen=True)
class Ranking:
    """What lies at or above each distinct score, from the highest score (M,) down.

    Args:
        scores: The distinct scores, falling.
        abnormal: Number of abnormal items at or above each.
        normal: Likewise of normal items.
        overlap: Likewise the mean, over the regions, of the covered part of a region; in [0, 1]. None for images.
    """

    scores: Array
    abnormal: Array
    normal: Array
    overlap: Array | None = None


def rank(scores: Array, labels: Array, shares: Array | None = None) -> Ranking:
    """The ranking of scores (N,) with labels (N,), True where abnormal, and the items' shares (N,) of the overlap.

    Raises:
        ValueError: If a score is not finite, or all items are normal or all abnormal.
    """
    if not np.isfinite(scores).all():
        msg = f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite: the model is broken."
        raise ValueError(msg)
    if labels.all() or not labels.any():
        kind = "abnormal" if labels.all() else "normal"
        msg = f"All {labels.size} items are {kind}: metrics need normal and abnormal ones in the test set."
        raise ValueError(msg)
    order = np.argsort(-scores)
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)  # of each run of equal scores
    abnormal = labels[order].cumsum(dtype=np.int64)[last]
    overlap = None if shares is None else shares[order].cumsum(dtype=np.float64)[last]
    return Ranking(ranked[last], abnormal, last + 1 - abnormal, overlap)


def auroc(ranking: Ranking) -> float:
    """Area under the curve of true over false positive rate, in [0, 1]."""
    return area(_from_zero(ranking.normal / ranking.normal[-1]), _from_zero(ranking.abnormal / ranking.abnormal[-1]))


def average_precision(ranking: Ranking) -> float:
    """Sum of the precisions, weighted by the recall gained at each score, in [0, 1]."""
    precision = ranking.abnormal / (ranking.abnormal + ranking.normal)
    return float(np.sum(np.diff(_from_zero(ranking.abnormal / ranking.abnormal[-1])) * precision))


def f1_max(ranking: Ranking) -> float:
    """The highest F1 score over all thresholds, in [0, 1]."""
    positive = ranking.abnormal + ranking.normal
    return float(np.max(2 * ranking.abnormal / (positive + ranking.abnormal[-1])))


def pro(ranking: Ranking) -> float:
    """Area under the curve of mean region overlap over false positive rate up to 0.3, divided by 0.3."""
    rate, overlap = _from_zero(ranking.normal / ranking.normal[-1]), _from_zero(_overlap(ranking))
    inside = rate < FALSE_POSITIVE_LIMIT
    at_limit = np.interp(FALSE_POSITIVE_LIMIT, rate, overlap)
    rate = np.append(rate[inside], FALSE_POSITIVE_LIMIT)
    return area(rate, np.append(overlap[inside], at_limit)) / FALSE_POSITIVE_LIMIT


def pro_authors(ranking: Ranking) -> float:
    """PRO as the authors' script computes it, which is another number than ``pro``; NaN where theirs is undefined.

    200 thresholds, evenly spaced over the range of the scores; a score above the threshold counts; of the points with a
    false positive rate below 0.3 the rates are rescaled by their own minimum and maximum, and the area is taken.
    """
    low, high = float(ranking.scores[-1]), float(ranking.scores[0])
    if low == high:
        return float("nan")
    thresholds = np.arange(low, high, (high - low) / AUTHORS_STEPS)
    above = np.searchsorted(-ranking.scores, -thresholds, side="left")  # how many distinct scores
    rate = _from_zero(ranking.normal / ranking.normal[-1])[above]
    overlap = _from_zero(_overlap(ranking))[above]
    inside = rate < FALSE_POSITIVE_LIMIT
    rate, overlap = rate[inside][::-1], overlap[inside][::-1]
    if rate.size < 2 or rate[-1] == rate[0]:
        return float("nan")
    return area((rate - rate[0]) / (rate[-1] - rate[0]), overlap)


def region_shares(masks: Array) -> Array:
    """Each pixel's share (B, H, W) of the mean region overlap: 1 / (area of its region * number of regions), else 0.

    A region is a set of abnormal pixels (masks are (B, H, W), bool) that touch at edges or corners.
    """
    shares = np.zeros(masks.shape)
    n_regions = 0
    for mask, share in zip(masks, shares, strict=True):
        regions = connected_regions(mask, connectivity=2)
        sizes = np.bincount(regions.ravel())
        share[mask] = 1 / sizes[regions[mask]]
        n_regions += sizes.size - 1
    return shares / max(n_regions, 1)


RANK_METRICS: dict[str, Callable[[Ranking], float]] = {
    "AUROC": auroc,
    "F1Max": f1_max,
    "AP": average_precision,
}
IMAGE_METRICS = [f"image_{name}" for name in RANK_METRICS]
PIXEL_METRICS = [*(f"pixel_{name}" for name in RANK_METRICS), "pixel_PRO", "pixel_PRO_authors"]


def image_metrics(scores: Array, labels: Array) -> dict[str, float]:
    """AUROC, F1-max and average precision of image scores (N,) with labels (N,)."""
    ranking = rank(scores, labels)
    return {f"image_{name}": metric(ranking) for name, metric in RANK_METRICS.items()}


def pixel_metrics(maps: Array, masks: Array) -> dict[str, float]:
    """AUROC, F1-max, average precision and both PRO of anomaly maps (B, H, W) with masks (B, H, W), bool."""
    ranking = rank(maps.ravel(), masks.ravel(), region_shares(masks).ravel())
    values = {f"pixel_{name}": metric(ranking) for name, metric in RANK_METRICS.items()}
    return {**values, "pixel_PRO": pro(ranking), "pixel_PRO_authors": pro_authors(ranking)}


def area(x: Array, y: Array) -> float:
    """Area under the polyline through the points (x, y), x rising."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _from_zero(values: Array) -> Array:
    return np.concatenate([[0.0], values])


def _overlap(ranking: Ranking) -> Array:
    if ranking.overlap is None:
        msg = "PRO needs regions: rank pixels with their shares."
        raise ValueError(msg)
    return ranking.overlap
