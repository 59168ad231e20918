# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The rank-preserving normalisation and its thresholds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import F1AdaptiveThreshold
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader

from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor

TRAINER = SimpleNamespace(testing=False, val_dataloaders=DataLoader([0]))


def image_scores(text: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
    """Few-shot image scores with the bounds of these images."""
    return (text + (maxima - maxima.min()) / (maxima.max() - maxima.min())) / 2


def validated(text: torch.Tensor, maxima: torch.Tensor, labels: torch.Tensor, maps: torch.Tensor | None = None):
    """A post-processor after a validation epoch of two batches."""
    post_processor, module = AprilGanPostProcessor(), SimpleNamespace()
    for part in torch.arange(len(text)).chunk(2):
        batch = ImageBatch(image=torch.zeros(len(part), 3, 4, 4), gt_label=labels[part])
        if maps is not None:
            batch.update(anomaly_map=maps[part], gt_mask=(maps[part] > maps.median()))
        post_processor.on_validation_batch_end(TRAINER, module, batch, batch, 0)
    post_processor.calibrate(image_scores(text, maxima), maxima, labels, 12.0)
    return post_processor


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(20) % 2
    return torch.rand(20, generator=generator) + 0.3 * labels, 3 * torch.rand(20, generator=generator), labels


def test_threshold_and_range_belong_to_the_final_scores(scores: tuple) -> None:
    text, maxima, labels = scores
    post_processor = validated(*scores)
    final = image_scores(text, maxima)
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    metric.update(SimpleNamespace(pred_score=final, gt_label=labels))
    assert post_processor.image_threshold == metric.compute()
    assert [post_processor.image_min, post_processor.image_max] == [final.min(), final.max()]


def test_minimum_threshold_and_maximum_become_0_half_and_1(scores: tuple) -> None:
    text, maxima, _ = scores
    post_processor = validated(*scores)
    final = image_scores(text, maxima)
    points = torch.stack([final.min(), post_processor.image_threshold, final.max()])
    assert post_processor(InferenceBatch(pred_score=points, anomaly_map=None)).pred_score.tolist() == [0, 0.5, 1]


def test_ranks_and_rank_metrics_are_those_of_raw_scores(scores: tuple) -> None:
    text, maxima, labels = scores
    post_processor = validated(*scores)
    raw = image_scores(text, maxima)
    normalized = post_processor(InferenceBatch(pred_score=raw, anomaly_map=None)).pred_score
    assert torch.equal(raw.argsort(), normalized.argsort())
    assert len(normalized.unique()) == len(raw.unique())
    for metric in (roc_auc_score, average_precision_score):
        assert metric(labels, raw) == pytest.approx(metric(labels, normalized), abs=1e-6)


def test_a_score_at_the_threshold_is_abnormal(scores: tuple) -> None:
    post_processor = validated(*scores)
    threshold = post_processor.image_threshold
    below = torch.nextafter(threshold, torch.tensor(-1.0)) - 1e-6
    output = post_processor(InferenceBatch(pred_score=torch.stack([below, threshold]), anomaly_map=None))
    assert output.pred_label.tolist() == [False, True]


def test_values_beyond_the_validation_range_are_0_and_1(scores: tuple) -> None:
    post_processor = validated(*scores)
    output = post_processor(InferenceBatch(pred_score=torch.tensor([-9.0, 9.0]), anomaly_map=None))
    assert output.pred_score.tolist() == [0, 1]


def test_maps_are_normalised_by_their_own_range(scores: tuple) -> None:
    maps = torch.rand(20, 4, 4)
    post_processor = validated(*scores, maps)
    output = post_processor(InferenceBatch(pred_score=torch.zeros(20), anomaly_map=maps))
    assert (output.anomaly_map.min(), output.anomaly_map.max()) == (0, 1)
    assert torch.equal(maps.flatten().argsort(), output.anomaly_map.flatten().argsort())


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_all_equal_scores_give_a_defined_result(constant: float) -> None:
    post_processor = AprilGanPostProcessor()
    for buffer in (post_processor.image_min, post_processor._image_threshold, post_processor.image_max):
        buffer.fill_(constant)
    values = torch.tensor([constant - 0.1, constant, constant + 0.1])
    normalized = post_processor(InferenceBatch(pred_score=values, anomaly_map=None)).pred_score
    assert normalized[1] == 0.5
    assert normalized.diff().min() > 0 or normalized.isfinite().all()


def test_images_without_labels_leave_the_threshold_and_set_the_range() -> None:
    post_processor = AprilGanPostProcessor()
    post_processor.calibrate(torch.tensor([0.05, 0.95]), torch.tensor([1.0, 2.0]), None, 12.0)
    assert post_processor.image_threshold.isnan()
    assert not post_processor.is_calibrated
    torch.testing.assert_close(post_processor.image_max, torch.tensor(0.95))


def test_before_validation_the_theoretical_range_holds() -> None:
    post_processor = AprilGanPostProcessor()
    post_processor.assume_range(4.0)
    maps = torch.tensor([0.0, 1.0, 2.0, 4.0]).reshape(1, 2, 2)
    output = post_processor(InferenceBatch(pred_score=torch.tensor([0.25]), anomaly_map=maps))
    assert output.pred_score.tolist() == [0.25]
    assert output.pred_label.tolist() == [False]
    assert output.anomaly_map.flatten().tolist() == [0, 0.25, 0.5, 1]
    assert output.pred_mask.flatten().tolist() == [False, False, True, True]
