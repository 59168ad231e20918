# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Pixel metrics against scikit-learn, anomalib and a loop over thresholds."""

from __future__ import annotations

from collections.abc import Callable

import anomalib.metrics
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from anomalib_aprilgan.components.metrics import PixelScores, pixel_metrics
from anomalib_aprilgan.components.ranking import Ranking


def images(levels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Six maps in [0, 1] with as many levels, and masks of blobs; the first has none."""
    rng = np.random.default_rng(seed)
    noise = rng.random((6, 24, 31))
    mask = np.zeros((6, 24, 31), bool)
    for image, row, column in zip([1, 1, 2, 3, 4, 5, 5, 5], *rng.integers(0, 20, (2, 8)), strict=True):
        mask[image, row : row + rng.integers(1, 6), column : column + rng.integers(1, 9)] = True
    scores = np.floor((0.7 * noise + 0.3 * mask * rng.random(6)[:, None, None]) * levels) / levels
    return torch.from_numpy(scores).float(), torch.from_numpy(mask)


def naive_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    """Per threshold: mean overlap over all regions, and false positive rate; trapezoids up to 0.3."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == region) for region in range(1, count + 1)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        over = maps >= threshold
        overlap = np.mean([over[number][region].mean() for number, region in regions])
        curve.append((over[~masks].mean(), overlap))
    fpr, pro = np.array(curve).T
    inside = fpr < 0.3
    fpr, pro = [*fpr[inside], 0.3], [*pro[inside], np.interp(0.3, fpr, pro)]
    return auc(fpr, pro) / 0.3


def computed(maps: Tensor, masks: Tensor) -> dict[str, float]:
    scores = PixelScores()
    for rows in torch.arange(len(maps)).split(4):
        scores.update(maps[rows], masks[rows])
    return {name: float(value) for name, value in scores.compute().items()}


@pytest.mark.parametrize("levels", [2, 7, 10**6])
@pytest.mark.parametrize("seed", [0, 1])
def test_sklearn_and_loop(levels: int, seed: int) -> None:
    maps, masks = images(levels, seed)
    target, score = masks.flatten().numpy(), maps.flatten().numpy()
    precision, recall, _ = precision_recall_curve(target, score)
    expected = {
        "AUROC": roc_auc_score(target, score),
        "F1Max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
        "AUPR": average_precision_score(target, score),
        "AUPRO": naive_aupro(maps.numpy(), masks.numpy()),
    }
    values = computed(maps, masks)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_anomalib(levels: int) -> None:
    maps, masks = images(levels)
    batch = ImageBatch(image=torch.zeros(6, 3, 24, 31), anomaly_map=maps, gt_mask=masks.long())
    values = computed(maps, masks)
    for name in values:
        metric = getattr(anomalib.metrics, name)(fields=["anomaly_map", "gt_mask"])
        metric.update(batch)
        assert values[name] == pytest.approx(float(metric.compute()), abs=1e-6), name


scores = st.lists(st.integers(0, 8), min_size=1, max_size=30)


@given(normal=scores, abnormal=scores)
@settings(max_examples=200, deadline=None)
def test_ranking_counts(normal: list[int], abnormal: list[int]) -> None:
    ranking = Ranking.of(torch.tensor(normal).float(), torch.tensor(abnormal).float())
    for index, score in enumerate(sorted(abnormal)):
        assert ranking.normal_above[index] == sum(other > score for other in normal)
        assert ranking.normal_from[index] == sum(other >= score for other in normal)
        assert ranking.abnormal_from[index] == sum(other >= score for other in abnormal)
    pairs = [(a > n) + (a == n) / 2 for a in abnormal for n in normal]
    assert float(ranking.auroc()) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("transform", [lambda maps: 3 * maps + 2, torch.exp, lambda maps: maps[:, None]])
def test_only_the_order_counts(transform: Callable[[Tensor], Tensor]) -> None:
    maps, masks = images(7)
    assert computed(transform(maps), masks) == computed(maps, masks)


def test_evaluator_shares_one_state() -> None:
    maps, masks = images(7)
    evaluator = Evaluator(test_metrics=pixel_metrics())
    batch = ImageBatch(image=torch.zeros(6, 3, 24, 31), anomaly_map=maps, gt_mask=masks.long())
    evaluator.on_test_batch_end(None, None, None, batch, 0)
    values = {metric.name: float(metric.compute()) for metric in evaluator.test_metrics}
    assert values == {f"pixel_{name}": value for name, value in computed(maps, masks).items()}
    assert len({id(metric.scores) for metric in evaluator.test_metrics}) == 1
    assert len(evaluator.test_metrics[0].scores.normal) == 1
    for metric in evaluator.test_metrics:
        metric.reset()
    other = ImageBatch(image=torch.zeros(4, 3, 24, 31), anomaly_map=maps[2:], gt_mask=masks[2:].long())
    evaluator.on_test_batch_end(None, None, None, other, 0)
    values = {metric.name: float(metric.compute()) for metric in evaluator.test_metrics}
    assert values == {f"pixel_{name}": value for name, value in computed(maps[2:], masks[2:]).items()}


def test_pixels_are_held_once_and_more_may_follow() -> None:
    """Computing joins the batches and sorts normal pixels in place, where they were copied twice before."""
    maps, masks = images(10**6)
    scores = PixelScores()
    for rows in ([0, 1], [2, 3]):
        scores.update(maps[rows], masks[rows])
    scores.compute()
    (held,) = scores.normal
    assert torch.equal(held, maps[:4][~masks[:4]].sort().values)
    scores.update(maps[4:], masks[4:])
    assert {name: float(value) for name, value in scores.compute().items()} == computed(maps, masks)


def test_without_masks_there_are_no_metrics() -> None:
    batch = ImageBatch(image=torch.zeros(2, 3, 8, 8), anomaly_map=torch.rand(2, 8, 8))
    metrics = pixel_metrics()
    for metric in metrics:
        metric.update(batch)
    assert [metric.compute() for metric in metrics] == [None] * 4


@pytest.mark.parametrize("value", [False, True])
def test_without_defects_or_without_normal_pixels(value: bool) -> None:
    scores = PixelScores()
    scores.update(torch.rand(2, 8, 8), torch.full((2, 8, 8), value))
    assert scores.compute() is None
    scores.normal, scores.abnormal = torch.cat(scores.normal), torch.cat(scores.abnormal)  # of several devices
    assert scores.compute() is None
