# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Rates, intervals, tests and thresholds against naive loops, enumerations and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from anomalib_aprilgan.comparison.report import statistics as own

DRAW = np.random.default_rng(1)
GOOD, BAD = DRAW.normal(size=31).round(1), DRAW.normal(1, size=17).round(1)  # with ties
LABELS = np.r_[np.zeros(31), np.ones(17)]
CUT = 0.6


def test_auroc_and_f1_equal_sklearns() -> None:
    scores = np.r_[GOOD, BAD]
    assert own.auroc(GOOD, BAD) == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12)
    assert own.f1(GOOD, BAD, CUT) == pytest.approx(f1_score(LABELS, scores >= CUT), abs=1e-12)
    assert own.f1(GOOD, BAD, 99) == 0


STATISTICS = {
    "auroc": own.auroc,
    "f1": lambda normal, abnormal: own.f1(normal, abnormal, CUT),
    "false alarms": lambda normal, _: float((normal >= CUT).mean()),
    "escapes": lambda _, abnormal: float((abnormal < CUT).mean()),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_equal_scipys_and_depend_on_the_seed(name: str) -> None:
    statistic = STATISTICS[name]
    found = own.bootstrapped(statistic, GOOD, BAD, 200, 3)
    options = {"n_resamples": 200, "batch": 1, "vectorized": False, "method": "percentile"}
    expected = stats.bootstrap((GOOD, BAD), statistic, **options, rng=np.random.default_rng(3)).confidence_interval
    np.testing.assert_allclose((found.low, found.high), expected, rtol=0, atol=1e-12)
    assert found.value == statistic(GOOD, BAD)
    assert own.bootstrapped(statistic, GOOD, BAD, 200, 3) == found
    assert own.bootstrapped(statistic, GOOD, BAD, 200, 4) != found


def test_a_single_image_tells_no_interval() -> None:
    found = own.bootstrapped(own.auroc, GOOD, BAD[:1])
    assert found.value == own.auroc(GOOD, BAD[:1])
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def other_model(noise: float) -> own.Pair:
    draw = np.random.default_rng(5)
    second = [50 + 9 * (part + noise * draw.normal(size=len(part))) for part in (GOOD, BAD)]
    return own.Pair((GOOD, BAD), tuple(second))


def test_the_paired_difference_equals_a_naive_loop() -> None:
    pair, draw, values = other_model(1), np.random.default_rng(0), []
    for _ in range(300):
        normal, abnormal = draw.integers(0, 31, 31), draw.integers(0, 17, 17)
        both = [own.auroc(part[0][normal], part[1][abnormal]) for part in (pair.second, pair.first)]
        values.append(both[0] - both[1])
    found = pair.difference(300)
    np.testing.assert_allclose((found.low, found.high), np.percentile(values, [2.5, 97.5]), rtol=0, atol=1e-12)


def scipys_p(pair: own.Pair, resamples: int) -> float:
    ranks = [stats.rankdata(np.concatenate(part)) for part in (pair.first, pair.second)]
    count = len(pair.first[0])

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return own.auroc(second[:count], second[count:]) - own.auroc(first[:count], first[count:])

    options = {"permutation_type": "samples", "vectorized": False, "n_resamples": resamples}
    return stats.permutation_test(ranks, difference, **options, rng=np.random.default_rng(0)).pvalue


@pytest.mark.parametrize("factor", [7, -7])
def test_the_paired_test_equals_scipys(factor: float) -> None:
    """By all of the 512 permutations."""
    good, bad = GOOD[:5], BAD[:4]
    pair = own.Pair((good, bad), (good[::-1] * 7, bad[::-1] * factor))
    assert pair.p_value(600) == pytest.approx(scipys_p(pair, 600), abs=1e-12)
    assert pair.p_value(511, seed=1) == pytest.approx(pair.p_value(600), abs=0.07)  # drawn


def delong(pair: own.Pair) -> float:
    """p of DeLong, DeLong and Clarke-Pearson's test (1988), from the structural components of their paper."""
    parts = []
    for normal, abnormal in (pair.first, pair.second):
        wins = (abnormal[:, None] > normal) + 0.5 * (abnormal[:, None] == normal)
        parts.append((wins.mean(axis=1), wins.mean(axis=0)))
    of_abnormal, of_normal = (np.cov([part[side] for part in parts]) for side in (0, 1))
    covariance = of_abnormal / len(pair.first[1]) + of_normal / len(pair.first[0])
    difference = parts[0][0].mean() - parts[1][0].mean()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return float(2 * stats.norm.sf(abs(difference) / math.sqrt(variance)))


@pytest.mark.parametrize("noise", [0.3, 1, 3])
def test_the_paired_test_is_near_to_delongs(noise: float) -> None:
    pair = other_model(noise)
    assert pair.p_value(4000) == pytest.approx(delong(pair), abs=0.05)


def test_models_of_the_same_order_do_not_differ() -> None:
    pair = other_model(0)
    assert (pair.p_value(), pair.difference(100)) == (1, own.Estimate(0, 0, 0))


@pytest.mark.parametrize("rate", [0, 0.01, 0.05, 0.2, 0.5])
def test_thresholds_keep_their_rate_and_give_nothing_away(rate: float) -> None:
    cut = own.threshold_for_false_alarms(GOOD, BAD, rate)
    assert own.false_alarms(GOOD, cut) <= rate * 31
    lower = GOOD[cut > GOOD].max()
    assert own.false_alarms(GOOD, lower) > rate * 31
    cut = own.threshold_for_escapes(GOOD, BAD, rate)
    assert own.escapes(BAD, cut) <= rate * 17
    higher = BAD[cut <= BAD].min()
    assert own.escapes(BAD, np.nextafter(higher, 99)) > rate * 17


@pytest.mark.parametrize("gap", [1, 1e-3, 2.0**-24])
def test_thresholds_lie_between_images(gap: float) -> None:
    normal, abnormal = np.asarray([0.1, 0.5]), np.asarray([0.5 + gap, 3])
    for cut in (own.threshold_for_false_alarms(normal, abnormal, 0), own.threshold_for_escapes(normal, abnormal, 0)):
        assert (own.false_alarms(normal, cut), own.escapes(abnormal, cut)) == (0, 0)
        assert cut == np.float32(cut)
    assert own.threshold_for_false_alarms(abnormal, normal, 0) > 3  # nothing is higher
    assert own.threshold_for_escapes(abnormal, normal, 0) < 0.1


@pytest.mark.parametrize(("count", "total", "low", "high"), [(0, 30, 0, 0.1157), (3, 30, 0.0211, 0.2653)])
def test_intervals_of_rates(count: int, total: int, low: float, high: float) -> None:
    """The published ones of Clopper and Pearson's method; 0 of 30: 1 - 0.025 ** (1 / 30)."""
    found = own.proportion(count, total)
    assert (found.value, found.low, found.high) == pytest.approx((count / total, low, high), abs=1e-4)


def test_images_to_show_a_rate() -> None:
    assert [own.images_to_show(rate) for rate in (0.01, 0.03, 0.05)] == [300, 100, 60]


SHIFTED = np.linspace(0, 1, 60)


@pytest.mark.parametrize(
    ("today", "word"),
    [(SHIFTED + 0.5, "higher"), (SHIFTED - 0.5, "lower"), (SHIFTED * 8 - 3.5, "spread differently")],
)
def test_drift_in_a_word(today: np.ndarray, word: str) -> None:
    p, found = own.drift(today, SHIFTED)
    assert (found, p) == (word, stats.ks_2samp(today, SHIFTED).pvalue)
    assert own.drift(SHIFTED[::2], SHIFTED)[1] == "alike"
