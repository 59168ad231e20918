# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of raw scores: pure functions of NumPy arrays, the same for images and pixels and for every model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_aprilgan.components.ranking import FPR_LIMIT, Ranking, region_sizes

Array = NDArray

AUTHORS_STEPS = 200


def rank(scores: Array, labels: Array, overlap_weights: Array | None = None) -> Ranking:
    """Return the ranking of images or pixels by their scores.

    Args:
        scores: Raw scores (N,).
        labels: True where abnormal (N,).
        overlap_weights: What each abnormal pixel adds to the mean region overlap (M,); only PRO needs them.

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
    normal, abnormal = (torch.from_numpy(scores[chosen]) for chosen in (~labels, labels))
    return Ranking.of(normal, abnormal, None if overlap_weights is None else torch.from_numpy(overlap_weights))


def pro_authors(ranking: Ranking) -> float:
    """PRO as the authors' script computes it, a different number from PRO; NaN where theirs is undefined.

    They take 200 evenly spaced thresholds and count scores above them. They keep the points with a false positive rate
    below 0.3, rescale these rates by their own minimum and maximum, and take the area under the curve.
    """
    low = float(min(ranking.normal[0], ranking.abnormal[0]))
    high = float(max(ranking.normal[-1], ranking.abnormal[-1]))
    if low == high:
        return float("nan")
    thresholds = np.arange(low, high, (high - low) / AUTHORS_STEPS)[::-1].copy()
    # A score exceeds a threshold if it exceeds the next smaller number of its own type.
    rounded = thresholds.astype(ranking.normal.numpy().dtype)
    rounded = np.where(rounded > thresholds, np.nextafter(rounded, -np.inf, dtype=rounded.dtype), rounded)
    rate, overlap = ranking.rates_above(torch.from_numpy(rounded))
    inside = rate < FPR_LIMIT
    rate, overlap = rate[inside], overlap[inside]
    if len(rate) < 2 or rate[-1] == rate[0]:
        return float("nan")
    return float(torch.trapezoid(overlap, (rate - rate[0]) / (rate[-1] - rate[0])))


def overlap_weights(masks: Array) -> Array:
    """What each abnormal pixel of masks (B, H, W), bool, adds to the mean region overlap, (M,).

    It is 1 / (number of regions x number of pixels in the pixel's own region).
    """
    sizes, counts = zip(*(region_sizes(mask) for mask in masks), strict=True)
    return 1 / (sum(counts) * np.concatenate(sizes).astype(float))


RANK_METRICS: dict[str, Callable[[Ranking], float]] = {
    "AUROC": Ranking.auroc,
    "F1Max": Ranking.f1_max,
    "AP": Ranking.average_precision,
}
IMAGE_METRICS = [f"image_{name}" for name in RANK_METRICS]
PIXEL_METRICS = [*(f"pixel_{name}" for name in RANK_METRICS), "pixel_PRO", "pixel_PRO_authors"]


def image_metrics(scores: Array, labels: Array) -> dict[str, float]:
    """AUROC, F1-max and average precision of image scores (N,) with labels (N,)."""
    ranking = rank(scores, labels)
    return {f"image_{name}": metric(ranking) for name, metric in RANK_METRICS.items()}


def pixel_metrics(maps: Array, masks: Array, weights: Array | None = None) -> dict[str, float]:
    """AUROC, F1-max, average precision, PRO and the authors' PRO.

    Args:
        maps: Anomaly maps (B, H, W).
        masks: True where abnormal (B, H, W).
        weights: The ``overlap_weights`` of the masks, if they are known.

    Raises:
        ValueError: If a score is not finite, or all pixels are normal or all abnormal.
    """
    ranking = rank(maps.ravel(), masks.ravel(), overlap_weights(masks) if weights is None else weights)
    values = {f"pixel_{name}": metric(ranking) for name, metric in RANK_METRICS.items()}
    return {**values, "pixel_PRO": ranking.pro(), "pixel_PRO_authors": pro_authors(ranking)}
