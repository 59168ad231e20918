# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for all inputs of maps, memory, scores, post-processor and metrics, drawn by hypothesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan.adapters import dice_loss, focal_loss
from anomalib_aprilgan.components.metrics import PixelScores
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.ranking import Ranking
from anomalib_aprilgan.maps import few_shot_map, few_shot_score, resize, stage_probabilities, text_score, zero_shot_map
from anomalib_aprilgan.memory import distances, make_banks, nearest_distance

WIDTH = 4
TEXT = F.normalize(torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.5, -1.0, 2.0, 1.0]]), dim=-1)
LEVELS = st.floats(-1000, 1000, width=32)


def tensors(*shape: int, elements: st.SearchStrategy = LEVELS) -> st.SearchStrategy[Tensor]:
    return arrays(np.float32, shape, elements=elements).map(torch.from_numpy)


TOKENS = st.sampled_from([1, 2, 3]).flatmap(lambda side: tensors(2, side**2, WIDTH))
SIZES = st.integers(1, 9)


# --- maps ---


@given(tokens=TOKENS, size=SIZES)
def test_probabilities_are_such_whatever_the_tokens(tokens: Tensor, size: int) -> None:
    probabilities = stage_probabilities(tokens, TEXT, size)
    assert probabilities.shape == (2, 2, size, size)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, size, size))


@given(tokens=TOKENS, size=SIZES, scale=st.sampled_from([0.25, 2.0, 64.0]))
def test_the_length_of_tokens_does_not_count(tokens: Tensor, size: int, scale: float) -> None:
    assume((tokens.norm(dim=-1) > 1e-3).all())  # F.normalize takes shorter vectors for zero
    torch.testing.assert_close(
        zero_shot_map([scale * tokens], TEXT, size), zero_shot_map([tokens], TEXT, size), atol=1e-4, rtol=0
    )


@given(tokens=TOKENS, size=SIZES)
def test_exchanged_text_features_exchange_the_channels(tokens: Tensor, size: int) -> None:
    swapped = stage_probabilities(tokens, TEXT.flip(0), size)
    torch.testing.assert_close(swapped, stage_probabilities(tokens, TEXT, size).flip(1), atol=1e-5, rtol=0)


@given(size=SIZES, stages=st.integers(1, 4))
def test_all_zero_tokens_are_undecided(size: int, stages: int) -> None:
    anomaly_map = zero_shot_map([torch.zeros(1, 4, WIDTH)] * stages, TEXT, size)
    assert torch.equal(anomaly_map, torch.full((1, size, size), stages / 2))


@given(patches=st.sampled_from([1, 2, 3, 5]).flatmap(lambda side: tensors(2, side**2, 1)), size=SIZES)
def test_resizing_stays_between_neighbours(patches: Tensor, size: int) -> None:
    image, slack = resize(patches, size), 1e-3
    assert image.shape == (2, 1, size, size)
    for values, each in zip(patches, image, strict=True):
        assert values.min() - slack <= each.min() <= each.max() <= values.max() + slack


@given(level=st.floats(0, 2, width=32), side=st.integers(1, 4), size=SIZES, stages=st.integers(1, 4))
def test_constant_distances_make_a_constant_map(level: float, side: int, size: int, stages: int) -> None:
    anomaly_map = few_shot_map([torch.full((1, side**2), level)] * stages, size)
    torch.testing.assert_close(anomaly_map, torch.full((1, size, size), stages * level))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_shows_in_its_image_and_no_other(value: float) -> None:
    tokens = torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(0))
    broken = tokens.clone()
    broken[1, 4, 2] = value
    for make in (
        lambda each: zero_shot_map([each], TEXT, 7),
        lambda each: few_shot_map([nearest_distance(each, TEXT)], 7),
    ):
        whole, hurt = make(tokens), make(broken)
        assert torch.equal(hurt[[0, 2]], whole[[0, 2]])
        assert hurt[1].amax().isnan()


# --- memory ---

REFERENCES = st.integers(1, 3).flatmap(lambda shots: tensors(shots, 2, WIDTH))
QUERIES = tensors(2, 3, WIDTH)


def distance(queries: Tensor, references: Tensor) -> Tensor:
    return distances([queries], make_banks([references]))[0]


@given(queries=QUERIES, references=REFERENCES)
def test_distances_are_between_0_and_2(queries: Tensor, references: Tensor) -> None:
    found = distance(queries, references)
    assert found.shape == (2, 3)
    assert (found >= -1e-6).all()
    assert (found <= 2 + 1e-6).all()


@given(queries=QUERIES, references=REFERENCES, copies=st.integers(2, 4))
def test_copies_and_order_of_references_do_not_count(queries: Tensor, references: Tensor, copies: int) -> None:
    once = distance(queries, references)
    torch.testing.assert_close(distance(queries, references.repeat(copies, 1, 1).flip(0)), once, atol=1e-6, rtol=0)


@given(queries=QUERIES, references=REFERENCES, more=REFERENCES)
def test_more_references_never_raise_a_distance(queries: Tensor, references: Tensor, more: Tensor) -> None:
    assert (distance(queries, torch.cat([references, more])) <= distance(queries, references) + 1e-6).all()


@given(references=REFERENCES)
def test_a_zero_token_is_at_distance_one_of_anything(references: Tensor) -> None:
    assert torch.equal(distance(torch.zeros(1, 2, WIDTH), references), torch.ones(1, 2))
    assert torch.equal(distance(references, torch.zeros(1, 1, WIDTH)), torch.ones(references.shape[:2]))


# --- scores ---


@given(embedding=tensors(3, WIDTH))
def test_text_scores_are_probabilities(embedding: Tensor) -> None:
    score = text_score(embedding, TEXT)
    assert ((score >= 0) & (score <= 1)).all()
    torch.testing.assert_close(text_score(embedding, TEXT.flip(0)), 1 - score, atol=1e-5, rtol=0)
    assert text_score(0 * embedding, TEXT).tolist() == [0.5] * 3


@given(text=tensors(2, elements=st.floats(0, 1, width=32)), peaks=tensors(2), bounds=tensors(2))
def test_few_shot_scores_are_defined_and_in_order(text: Tensor, peaks: Tensor, bounds: Tensor) -> None:
    bounds = bounds.sort().values
    assume(bounds[1] - bounds[0] > 1e-3 or bounds[0] == bounds[1])
    scores = few_shot_score(text[:1].expand(2), peaks, bounds)
    assert scores.isfinite().all()
    assert (scores[1] >= scores[0]) if peaks[1] >= peaks[0] else (scores[1] <= scores[0])
    if bounds[0] == bounds[1]:
        assert torch.equal(scores, text[:1].expand(2) / 2)


# --- post-processor ---


def normalised(values: Tensor, low: float, threshold: float, high: float) -> InferenceBatch:
    post_processor = AprilGanPostProcessor()
    for name, value in (("image_min", low), ("_image_threshold", threshold), ("image_max", high)):
        getattr(post_processor, name).fill_(value)
    return post_processor(InferenceBatch(pred_score=values, anomaly_map=None))


@given(values=tensors(8), points=tensors(3))
def test_normalisation_keeps_order_range_and_decisions(values: Tensor, points: Tensor) -> None:
    """Wherever the threshold lies, also beyond the range of the validation."""
    low, high, threshold = *points[:2].sort().values.tolist(), points[2].item()
    values = values.sort().values
    batch = normalised(values, low, threshold, high)
    assert ((batch.pred_score >= 0) & (batch.pred_score <= 1)).all()
    assert (batch.pred_score.diff() >= 0).all()
    assert batch.pred_label[values >= threshold].all()
    assert not batch.pred_label[values < threshold - 1e-3 * (1 + abs(threshold - low))].any()


def test_what_is_no_number_is_not_called_normal() -> None:
    batch = normalised(torch.tensor([math.nan, 0.0, 1.0]), 0.0, 0.5, 1.0)
    assert batch.pred_label.tolist() == [True, False, True]
    assert batch.pred_score.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_equal_scores_get_one_decision(level: float) -> None:
    assert normalised(torch.full((5,), level), level, level, level).pred_label.all()


# --- metrics ---

SAMPLES = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(normal=SAMPLES, abnormal=SAMPLES)
def test_rank_metrics_are_sklearns(normal: list[int], abnormal: list[int]) -> None:
    ranking = Ranking.of(torch.tensor(normal).float(), torch.tensor(abnormal).float())
    labels = [0] * len(normal) + [1] * len(abnormal)
    assert ranking.auroc() == pytest.approx(roc_auc_score(labels, normal + abnormal))
    assert ranking.average_precision() == pytest.approx(average_precision_score(labels, normal + abnormal))
    thresholds = {score: [s >= score for s in normal + abnormal] for score in normal + abnormal}
    best = max(
        2 * np.dot(labels, found) / (np.sum(found) + np.sum(labels)) for found in map(np.asarray, thresholds.values())
    )
    assert ranking.f1_max() == pytest.approx(best)


@given(normal=SAMPLES, abnormal=SAMPLES)
def test_exchanging_the_kinds_mirrors_auroc(normal: list[int], abnormal: list[int]) -> None:
    one, other = torch.tensor(normal).float(), torch.tensor(abnormal).float()
    assert Ranking.of(one, other).auroc() == pytest.approx(1 - Ranking.of(other, one).auroc())
    assert Ranking.of(one, other).auroc() == pytest.approx(Ranking.of(-other, -one).auroc())


@given(n_normal=st.integers(1, 9), n_abnormal=st.integers(1, 9), level=LEVELS)
def test_equal_scores_tell_nothing(n_normal: int, n_abnormal: int, level: float) -> None:
    ranking = Ranking.of(torch.full((n_normal,), level), torch.full((n_abnormal,), level))
    share = n_abnormal / (n_normal + n_abnormal)
    assert ranking.auroc() == 0.5
    assert ranking.average_precision() == pytest.approx(share)
    assert ranking.f1_max() == pytest.approx(2 * share / (1 + share))


@given(maps=array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(lambda shape: tensors(2, *shape)), data=st.data())
def test_pixel_metrics_are_shares(maps: Tensor, data: st.DataObject) -> None:
    masks = torch.from_numpy(data.draw(arrays(bool, tuple(maps.shape))))
    scores = PixelScores()
    scores.update(maps, masks)
    values = scores.compute()
    if not masks.any() or masks.all():
        assert values is None
    else:
        assert set(values) == {"AUROC", "F1Max", "AUPR", "AUPRO"}
        assert all(0 <= float(value) <= 1 + 1e-6 for value in values.values())


@pytest.mark.parametrize("kind", [0, 1])
def test_scores_that_are_no_numbers_have_no_rank(kind: int) -> None:
    samples = [torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])]
    samples[kind][0] = math.nan
    with pytest.raises(ValueError, match="not numbers"):
        Ranking.of(*samples)
    with pytest.raises(ValueError, match="not numbers"):
        Ranking.of(*samples, overlaps=torch.ones(2) / 2)


# --- losses ---


@given(level=tensors(1, 3, 3, elements=st.floats(0, 1, width=32)), data=st.data())
def test_losses_are_finite_and_least_at_the_mask(level: Tensor, data: st.DataObject) -> None:
    masks = torch.from_numpy(data.draw(arrays(bool, (1, 3, 3)))).float()
    focal, least_focal = (focal_loss(torch.stack([1 - each, each], dim=1), masks) for each in (level, masks))
    dice, least_dice = (dice_loss(each, masks) for each in (level, masks))
    assert focal.isfinite()
    assert focal >= least_focal - 1e-6
    assert dice >= least_dice - 1e-6
    assert -1e-6 <= dice <= 1
