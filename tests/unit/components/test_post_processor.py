# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The rank-preserving normalisation and its thresholds."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader

from anomalib_aprilgan.components.post_processor import LOWER_TAIL, UPPER_TAIL, AprilGanPostProcessor

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


def test_minimum_threshold_and_maximum_are_fixed_points(scores: tuple) -> None:
    text, maxima, _ = scores
    post_processor = validated(*scores)
    final = image_scores(text, maxima)
    points = torch.stack([final.min(), post_processor.image_threshold, final.max()])
    normalized = post_processor(InferenceBatch(pred_score=points, anomaly_map=None)).pred_score
    torch.testing.assert_close(normalized, torch.tensor([LOWER_TAIL, 0.5, 1 - UPPER_TAIL]))


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


def test_order_is_kept_beyond_the_validation_range(scores: tuple) -> None:
    post_processor = validated(*scores)
    raw = torch.linspace(-2, 3, 2001)
    normalized = post_processor(InferenceBatch(pred_score=raw, anomaly_map=None)).pred_score
    assert normalized.diff().min() > 0
    assert 0 < normalized.min() < normalized.max() < 1


@example(0.0, 0.0, -0.734375, [0.0, 1.2336905631082484e-40])  # a step beyond the range
@given(
    st.floats(-1, 1, width=32),
    st.floats(-1, 1, width=32),
    st.floats(-1, 1, width=32),
    st.lists(st.floats(-3, 3), min_size=2),
)
def test_order_is_kept_whatever_was_validated(one: float, other: float, threshold: float, values: list[float]) -> None:
    """Even with a threshold outside of the range."""
    post_processor = AprilGanPostProcessor()
    post_processor.has_tails = True
    post_processor.image_min.fill_(min(one, other))
    post_processor.image_max.fill_(max(one, other))
    post_processor._image_threshold.fill_(threshold)
    raw = torch.tensor(values).sort().values
    normalized = post_processor(InferenceBatch(pred_score=raw, anomaly_map=None)).pred_score
    assert (normalized.diff() >= 0).all()
    assert ((normalized >= 0) & (normalized <= 1)).all()


def test_the_raw_score_decides() -> None:
    """One rounding step below the threshold is normal, though the normalised score may round to 0.5."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        low, threshold, high = torch.rand(3, generator=generator).sort().values
        post_processor = AprilGanPostProcessor()
        for buffer, value in zip(
            (post_processor.image_min, post_processor._image_threshold, post_processor.image_max),
            (low, threshold, high),
            strict=True,
        ):
            buffer.copy_(value)
        below = torch.nextafter(threshold, torch.tensor(-1.0))
        batch = ImageBatch(image=torch.zeros(2, 3, 1, 1), pred_score=torch.stack([below, threshold]))
        post_processor.post_process_batch(batch)
        assert batch.pred_label.tolist() == [False, True]


def test_defects_alone_tell_no_threshold(scores: tuple, caplog: pytest.LogCaptureFixture) -> None:
    text, maxima, labels = scores
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        post_processor = validated(text, maxima, torch.ones_like(labels), torch.rand(20, 4, 4))
    assert "20 validation images are all abnormal, which tells no threshold" in caplog.text
    assert not post_processor.is_calibrated
    assert (post_processor.image_min, post_processor.image_threshold, post_processor.image_max) == (0, 0.5, 1)
    assert (post_processor.pixel_min, post_processor.pixel_threshold, post_processor.pixel_max) == (0, 6, 12)


def test_a_range_of_a_hairs_breadth_is_none(caplog: pytest.LogCaptureFixture) -> None:
    scores, labels = torch.tensor([0.5, 0.5003]), torch.tensor([0, 1])
    post_processor = AprilGanPostProcessor()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        post_processor.calibrate(scores, scores, labels, 12.0)
    assert "image scores of all validation images are too alike for a range: 0.5 to 0.5003" in caplog.text
    assert (post_processor.image_min, post_processor.image_max) == (0, 1)
    torch.testing.assert_close(post_processor.image_threshold, torch.tensor(0.5003))


def test_another_model_is_validated_as_by_anomalib(scores: tuple) -> None:
    text, maxima, labels = scores
    ours, theirs = AprilGanPostProcessor(), PostProcessor()
    batch = ImageBatch(image=torch.zeros(20, 3, 4, 4), gt_label=labels, pred_score=image_scores(text, maxima))
    for post_processor in (ours, theirs):
        post_processor.on_validation_batch_end(None, None, batch)
        post_processor.on_validation_epoch_end(None, None)
    assert ours.image_threshold == theirs.image_threshold
    assert (ours.image_min, ours.image_max) == (theirs.image_min, theirs.image_max)


def test_maps_are_normalised_by_their_own_range(scores: tuple) -> None:
    maps = torch.rand(20, 4, 4)
    post_processor = validated(*scores, maps)
    output = post_processor(InferenceBatch(pred_score=torch.zeros(20), anomaly_map=maps))
    torch.testing.assert_close(output.anomaly_map.min(), torch.tensor(LOWER_TAIL))
    torch.testing.assert_close(output.anomaly_map.max(), torch.tensor(1 - UPPER_TAIL))
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
