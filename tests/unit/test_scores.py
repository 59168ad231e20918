# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Image scores against naive formulas."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from anomalib_aprilgan.maps import few_shot_score, text_score


def test_text_score_equals_a_naive_softmax() -> None:
    embeddings, text = torch.randn(5, 8), F.normalize(torch.randn(2, 8), dim=-1)
    for embedding, actual in zip(embeddings, text_score(embeddings, text), strict=True):
        logits = [100 * torch.dot(embedding, row).item() / embedding.norm().item() for row in text]
        assert math.isclose(actual.item(), 1 / (1 + math.exp(logits[0] - logits[1])), abs_tol=1e-5)


def test_few_shot_score_is_the_mean_of_text_and_scaled_peak() -> None:
    score = few_shot_score(torch.tensor([0.2, 0.4, 0.6]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(score, torch.tensor([0.1, 0.45, 0.8]))


def test_a_peak_beyond_the_bounds_still_ranks_higher() -> None:
    score = few_shot_score(torch.zeros(3), torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 3.0]))
    assert (score.diff() > 0).all()


def test_equal_bounds_leave_half_the_text_score() -> None:
    score = few_shot_score(torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([2.0, 2.0]))
    assert score.item() == 0.25


def test_each_embedding_counts_by_its_direction_alone() -> None:
    """Between text features so near each other that no probability is 0 or 1."""
    generator = torch.Generator().manual_seed(2)
    normal = F.normalize(torch.randn(8, generator=generator), dim=0)
    text = F.normalize(torch.stack([normal, normal + 0.01 * torch.randn(8, generator=generator)]), dim=-1)
    embeddings = torch.randn(5, 8, generator=generator)
    scores = text_score(embeddings, text)
    assert ((scores > 0.05) & (scores < 0.95)).all()
    alone = torch.cat([text_score(3 * embedding.unsqueeze(0), text) for embedding in embeddings])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)
