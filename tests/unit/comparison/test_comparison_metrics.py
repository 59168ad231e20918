# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison's metrics against scikit-learn, anomalib, naive loops and the authors' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_aprilgan.comparison import metrics


def sklearn_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "AUROC": roc_auc_score(labels, scores),
        "F1Max": f1.max(),
        "AP": average_precision_score(labels, scores),
    }


def blobs(seed: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks (6, 24, 24); some regions touch at a corner; scores have ties if there are levels."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((6, 24, 24), dtype=bool)
    for mask in masks[:4]:
        for _ in range(3):
            y, x = rng.integers(0, 18, 2)
            mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    masks[0, :2, :2] = np.eye(2, dtype=bool)
    maps = rng.random(masks.shape) + 0.5 * masks
    return (maps if levels is None else np.round(maps * levels) / levels).astype(np.float32), masks


def naive_pro_curve(maps: np.ndarray, masks: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and mean region overlap of ``maps > threshold``, threshold by threshold."""
    rates, overlaps = [], []
    for threshold in thresholds:
        found = maps > threshold
        rates.append((found & ~masks).sum() / (~masks).sum())
        covered = []
        for one, mask in zip(found, masks, strict=True):
            for region in regionprops(label(mask, connectivity=2)):
                covered.append(one[tuple(region.coords.T)].mean())
        overlaps.append(np.mean(covered))
    return np.array(rates), np.array(overlaps)


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("n", [10, 1000])
def test_image_metrics_equal_sklearn(n: int, levels: int | None) -> None:
    rng = np.random.default_rng(n)
    labels = rng.random(n) < 0.3
    labels[:2] = True, False
    scores = rng.normal(size=n) + labels
    scores = scores if levels is None else np.round(scores * levels) / levels
    for name, value in sklearn_metrics(labels, scores).items():
        assert metrics.image_metrics(scores, labels)[f"image_{name}"] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 10])
def test_pixel_metrics_equal_sklearn(levels: int | None) -> None:
    maps, masks = blobs(0, levels)
    actual = metrics.pixel_metrics(maps, masks)
    for name, value in sklearn_metrics(masks.ravel(), maps.ravel()).items():
        assert actual[f"pixel_{name}"] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_pro_equals_naive_loop_and_anomalib(seed: int, levels: int | None) -> None:
    maps, masks = blobs(seed, levels)
    actual = metrics.pixel_metrics(maps, masks)["pixel_PRO"]
    thresholds = np.append(np.unique(maps)[::-1], -1.0)  # from nothing found to everything
    rate, overlap = naive_pro_curve(maps, masks, thresholds)
    fine = np.linspace(0, 0.3, 200_001)
    naive = auc(fine, np.interp(fine, rate, overlap)) / 0.3
    assert actual == pytest.approx(naive, abs=1e-5)
    anomalib = _AUPRO(fpr_limit=0.3)
    anomalib.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    assert actual == pytest.approx(anomalib.compute().item(), abs=1e-5)


@pytest.mark.parametrize("levels", [None, 10])
def test_authors_pro_equals_naive_loop(levels: int | None) -> None:
    maps, masks = blobs(2, levels)
    low, high = float(maps.min()), float(maps.max())
    rate, overlap = naive_pro_curve(maps, masks, np.arange(low, high, (high - low) / 200))
    kept = rate < 0.3
    rate, overlap = rate[kept], overlap[kept]
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    assert metrics.pixel_metrics(maps, masks)["pixel_PRO_authors"] == pytest.approx(auc(rate, overlap), abs=1e-9)


@pytest.mark.parametrize("setting", ["zero", "few1", "few2"])
@pytest.mark.parametrize("index", [0, 1])
def test_authors_numbers(golden: dict[str, np.ndarray], setting: str, index: int) -> None:
    chosen = golden["categories"] == golden["metrics/categories"][index]
    maps, masks = golden[f"{setting}/anomaly_maps"][chosen], golden["masks"][chosen].astype(bool)
    actual = metrics.pixel_metrics(maps, masks)
    for ours, theirs in (("AUROC", "auroc_px"), ("F1Max", "f1_px"), ("AP", "ap_px")):
        assert actual[f"pixel_{ours}"] == pytest.approx(golden[f"{setting}/metrics/{theirs}"][index], abs=1e-9)
    assert actual["pixel_PRO_authors"] == pytest.approx(golden[f"{setting}/metrics/aupro"][index], abs=0.005)


def test_perfect_map() -> None:
    _, masks = blobs(3, None)
    values = metrics.pixel_metrics(masks.astype(np.float32), masks)
    assert values.pop("pixel_PRO_authors") != values["pixel_PRO"]  # undefined: no false positive to rescale by
    assert all(value == pytest.approx(1) for value in values.values())


def test_order_is_all_that_counts() -> None:
    maps, masks = blobs(4, None)
    before, after = metrics.pixel_metrics(maps, masks), metrics.pixel_metrics(np.exp(maps.astype(float)), masks)
    before.pop("pixel_PRO_authors"), after.pop("pixel_PRO_authors")  # its thresholds are evenly spaced
    assert after == pytest.approx(before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        metrics.image_metrics(np.array([0, value, 1]), np.array([True, False, True]))


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_only(label: bool) -> None:
    with pytest.raises(ValueError, match=f"All 3 items are {'abnormal' if label else 'normal'}"):
        metrics.image_metrics(np.arange(3.0), np.full(3, label))


def test_constant_map() -> None:
    _, masks = blobs(5, None)
    values = metrics.pixel_metrics(np.ones(masks.shape, dtype=np.float32), masks)
    assert values["pixel_AUROC"] == pytest.approx(0.5)
    assert np.isnan(values["pixel_PRO_authors"])
