# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Rates, intervals, tests and thresholds of image scores: pure functions of NumPy arrays.

A score at the threshold counts as abnormal. A false alarm is a normal image called abnormal, an escape an abnormal one
called normal. Intervals hold with 95 % confidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from anomalib_aprilgan.components.post_processor import SCORE_MARGIN

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
ROUNDING = 1e-12
SPREAD = "spread differently"
RULE_OF_THREE = 3  # no event in n images: its rate is below 3 / n with 95 % confidence
Array = NDArray
Statistic = Callable[[Array, Array], float]  # of normal and of abnormal images


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, whose ends are NaN where there are too few images to tell."""

    value: float
    low: float
    high: float


def auroc(normal: Array, abnormal: Array) -> float:
    """Probability that the score of an abnormal image (M,) is higher than a normal one's (L,); ties count one half."""
    rising = np.sort(normal)
    below = np.searchsorted(rising, abnormal, "left") + np.searchsorted(rising, abnormal, "right")
    return float(below.mean() / (2 * len(normal)))


def false_alarms(normal: Array, threshold: float) -> int:
    """How many normal images (L,) are called abnormal."""
    return int((normal >= threshold).sum())


def escapes(abnormal: Array, threshold: float) -> int:
    """How many abnormal images (M,) are called normal."""
    return int((abnormal < threshold).sum())


def f1(normal: Array, abnormal: Array, threshold: float) -> float:
    """Harmonic mean of precision and recall of the decisions about normal (L,) and abnormal images (M,)."""
    missed = escapes(abnormal, threshold)
    found = len(abnormal) - missed
    return 2 * found / (2 * found + missed + false_alarms(normal, threshold))


def bootstrapped(
    statistic: Statistic, normal: Array, abnormal: Array, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The statistic with its percentile bootstrap interval; normal and abnormal images are drawn apart.

    Args:
        statistic: Of normal and abnormal images.
        normal: What it takes of the normal images (L,).
        abnormal: Of the abnormal images (M,).
        resamples: Number of draws with replacement.
        seed: Of the draws.
    """
    value = statistic(normal, abnormal)
    if min(len(normal), len(abnormal)) < 2:
        return Estimate(value, math.nan, math.nan)
    draw = np.random.default_rng(seed)
    parts = (normal, abnormal)
    values = [statistic(*(part[draw.integers(0, len(part), len(part))] for part in parts)) for _ in range(resamples)]
    return Estimate(value, *map(float, np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])))


def proportion(count: int, total: int) -> Estimate:
    """A rate with its exact interval (Clopper and Pearson)."""
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(count / total, float(interval.low), float(interval.high))


def images_to_show(rate: float) -> int:
    """How many images without one event show that it is rarer than ``rate``, in (0, 1)."""
    return math.ceil(RULE_OF_THREE / rate - 1e-9)


def threshold_for_false_alarms(normal: Array, abnormal: Array, rate: float) -> float:
    """The lowest threshold that at most a fraction ``rate`` of the normal images (L,) reach, in [0, 1).

    It lies in the middle between the scores, of whatever image, that are next to it.
    """
    low = np.sort(normal)[::-1][_whole(rate * len(normal))]
    higher = np.concatenate([normal, abnormal])
    higher = higher[higher > low]
    return _between(low, higher.min()) if len(higher) else float(low + SCORE_MARGIN)


def threshold_for_escapes(normal: Array, abnormal: Array, rate: float) -> float:
    """The highest threshold that at most a fraction ``rate`` of the abnormal images (M,) fail to reach, in [0, 1).

    It lies in the middle between the scores, of whatever image, that are next to it.
    """
    high = np.sort(abnormal)[_whole(rate * len(abnormal))]
    lower = np.concatenate([normal, abnormal])
    lower = lower[lower < high]
    return _between(lower.max(), high) if len(lower) else float(high - SCORE_MARGIN)


def _whole(number: float) -> int:
    return math.floor(number + 1e-9)


def _between(low: float, high: float) -> float:
    """The middle, as the model can keep it; the upper one where there is no number between them."""
    middle = float(np.float32((low + high) / 2))
    return middle if low < middle <= high else float(high)


@dataclass(frozen=True)
class Pair:
    """The scores of two models on the same images.

    Args:
        first: Of normal (L,) and abnormal images (M,).
        second: Likewise, in the same order.
    """

    first: tuple[Array, Array]
    second: tuple[Array, Array]

    def difference(self, resamples: int = 2000, seed: int = 0) -> Estimate:
        """AUROC of the second less that of the first, with an interval of draws that are the same for both."""

        def statistic(good: Array, bad: Array) -> float:
            first, second = (auroc(model[0][good], model[1][bad]) for model in (self.first, self.second))
            return second - first

        normal, abnormal = (np.arange(len(part)) for part in self.first)
        return bootstrapped(statistic, normal, abnormal, resamples, seed)

    def p_value(self, resamples: int = 2000, seed: int = 0) -> float:
        """Probability of a difference at least this large if an image's ranks came from either model by chance.

        Permutation test of ranks, since models differ in units; by all permutations if these are fewer than
        ``resamples``.

        Args:
            resamples: Number of permutations that are drawn.
            seed: Of the draws.
        """
        n_normal, n_images = len(self.first[0]), sum(map(len, self.first))
        first, second = (stats.rankdata(np.concatenate(scores)) for scores in (self.first, self.second))

        def difference(swapped: Array) -> float:
            one, other = np.where(swapped, second, first), np.where(swapped, first, second)
            return auroc(other[:n_normal], other[n_normal:]) - auroc(one[:n_normal], one[n_normal:])

        draw, not_swapped = np.random.default_rng(seed), np.zeros(n_images, dtype=bool)
        swaps: Iterable[Array] = itertools.product(*[(False, True)] * n_images)  # type: ignore[assignment]
        if 2**n_images > resamples:
            swaps = itertools.chain([not_swapped], (draw.random(n_images) < 0.5 for _ in range(resamples)))
        sizes = np.abs([difference(swapped) for swapped in swaps])
        return float((sizes >= abs(difference(not_swapped)) - ROUNDING).mean())


def drift(today: Array, before: Array) -> tuple[float, str]:
    """The p-value of Kolmogorov and Smirnov's test whether scores (L,) and (M,) differ, and how they do in a word.

    The word is "higher", "lower" or "spread differently", or "alike" if p is above 0.05.
    """
    test = stats.ks_2samp(today, before)
    if test.pvalue > SIGNIFICANT:
        return float(test.pvalue), "alike"
    sides = [stats.ks_2samp(today, before, alternative=side).pvalue <= SIGNIFICANT for side in ("less", "greater")]
    return float(test.pvalue), SPREAD if all(sides) else "higher" if sides[0] else "lower"
