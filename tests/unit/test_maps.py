# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps and image scores against naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anomalib_aprilgan.maps import (
    few_shot_score,
    map_maxima,
    map_peaks,
    resize,
    stage_probabilities,
    text_score,
    zero_shot_map,
)

SIZE = 15


def unit_text(*batch: int) -> torch.Tensor:
    return F.normalize(torch.randn(*batch, 2, 6, generator=torch.Generator().manual_seed(1)), dim=-1)


def naive_resize(grid: list[list[float]], size: int) -> torch.Tensor:
    """Bilinear with aligned corners, pixel by pixel."""
    side = len(grid)
    out = torch.empty(size, size)
    for row in range(size):
        for column in range(size):
            y, x = row * (side - 1) / (size - 1), column * (side - 1) / (size - 1)
            top, left = min(int(y), side - 2), min(int(x), side - 2)
            dy, dx = y - top, x - left
            out[row, column] = (
                grid[top][left] * (1 - dy) * (1 - dx)
                + grid[top][left + 1] * (1 - dy) * dx
                + grid[top + 1][left] * dy * (1 - dx)
                + grid[top + 1][left + 1] * dy * dx
            )
    return out


def test_probabilities_equal_a_naive_loop() -> None:
    tokens, text = torch.randn(2, 9, 6), unit_text()
    actual = stage_probabilities(tokens, text, SIZE)
    for image in range(2):
        logits = [
            [
                100 * sum(a * b for a, b in zip(token.tolist(), row.tolist(), strict=True)) / token.norm().item()
                for token in tokens[image]
            ]
            for row in text
        ]
        normal, abnormal = (naive_resize([row[i : i + 3] for i in (0, 3, 6)], SIZE) for row in logits)
        expected = (abnormal - normal).sigmoid()
        torch.testing.assert_close(actual[image, 1], expected, atol=1e-4, rtol=0)


def test_text_features_per_image_equal_one_by_one() -> None:
    tokens, text = torch.randn(3, 16, 6), unit_text(3)
    together = stage_probabilities(tokens, text, SIZE)
    alone = [stage_probabilities(tokens[i : i + 1], text[i], SIZE) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_maps_sum_over_stages_of_different_grids() -> None:
    stages = [torch.randn(2, n, 6) for n in (4, 9, 16)]
    summed = zero_shot_map(stages, unit_text(), SIZE)
    parts = [stage_probabilities(tokens, unit_text(), SIZE)[:, 1] for tokens in stages]
    torch.testing.assert_close(summed, parts[0] + parts[1] + parts[2])
    assert summed.min() >= 0
    assert summed.max() <= len(stages)


def test_resize_keeps_corners_and_rows() -> None:
    patches = torch.arange(16.0).reshape(1, 16, 1)
    image = resize(patches, SIZE)[0, 0]
    assert image[0].tolist() == sorted(image[0].tolist())
    assert [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]] == [0, 3, 12, 15]
    assert math.isclose(image[0, SIZE // 2], 1.5, abs_tol=1e-5)


def test_text_score_equals_a_naive_softmax() -> None:
    embeddings, text = torch.randn(5, 8), F.normalize(torch.randn(2, 8), dim=-1)
    for embedding, actual in zip(embeddings, text_score(embeddings, text), strict=True):
        logits = [100 * torch.dot(embedding, row).item() / embedding.norm().item() for row in text]
        assert math.isclose(actual.item(), 1 / (1 + math.exp(logits[0] - logits[1])), abs_tol=1e-5)


def test_text_scores_depend_on_the_direction_of_each_embedding_alone() -> None:
    """The text features are so close to each other that no probability is 0 or 1."""
    generator = torch.Generator().manual_seed(2)
    normal = F.normalize(torch.randn(8, generator=generator), dim=0)
    text = F.normalize(torch.stack([normal, normal + 0.01 * torch.randn(8, generator=generator)]), dim=-1)
    embeddings = torch.randn(5, 8, generator=generator)
    scores = text_score(embeddings, text)
    assert ((scores > 0.05) & (scores < 0.95)).all()
    alone = torch.cat([text_score(3 * embedding.unsqueeze(0), text) for embedding in embeddings])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "peaks", "bounds", "expected"),
    [
        ([0.2, 0.4, 0.6], [1.0, 2.0, 3.0], [1.0, 3.0], [0.1, 0.45, 0.8]),
        ([0.0, 0.0, 0.0], [3.0, 4.0, 5.0], [1.0, 3.0], [0.5, 0.75, 1.0]),
        ([0.5], [2.0], [2.0, 2.0], [0.25]),
    ],
    ids=["mean of text score and scaled peak", "peak beyond the bounds", "equal bounds"],
)
def test_few_shot_score(text: list[float], peaks: list[float], bounds: list[float], expected: list[float]) -> None:
    score = few_shot_score(*map(torch.tensor, (text, peaks, bounds)))
    torch.testing.assert_close(score, torch.tensor(expected))


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 1), (1e-9, 1), (0.01, 2), (0.25, 52), (1.0, 210)])
def test_peaks_equal_numpy(fraction: float, count: int) -> None:
    maps = torch.rand(3, 14, SIZE, generator=torch.Generator().manual_seed(0))
    expected = np.sort(maps.numpy().reshape(3, -1), axis=1)[:, -count:].mean(axis=1)
    np.testing.assert_allclose(map_peaks(maps, fraction), expected, rtol=1e-6)
    if count == 1:
        assert torch.equal(map_peaks(maps, fraction), map_maxima(maps))
