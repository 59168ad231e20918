# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Losses against naive loops."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_aprilgan.losses import dice_loss, focal_loss


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand(2, 2, 4, 5, generator=generator).softmax(dim=1)
    return probabilities, (torch.rand(2, 4, 5, generator=generator) > 0.6).float()


def test_focal_loss_equals_a_naive_loop(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities, masks = example
    terms, (low, high) = [], (1e-5, 1 - 1e-5)
    pixels = (each.flatten().tolist() for each in (*probabilities.unbind(1), masks))
    for normal, abnormal, mask in zip(*pixels, strict=True):
        p = (high * abnormal + low * normal if mask else high * normal + low * abnormal) + 1e-5
        terms.append(-((1 - p) ** 2) * math.log(p))
    assert focal_loss(*example).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_dice_loss_equals_a_naive_loop(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities, masks = example
    ratios = []
    for probability, mask in zip(probabilities[:, 1], masks, strict=True):
        overlap = sum((p * m).item() for p, m in zip(probability.flatten(), mask.flatten(), strict=True))
        ratios.append((2 * overlap + 1) / (probability.sum().item() + mask.sum().item() + 1))
    assert dice_loss(probabilities[:, 1], masks).item() == pytest.approx(1 - sum(ratios) / 2, rel=1e-5)


def test_losses_of_a_perfect_map_are_almost_zero() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:4] = 1
    assert focal_loss(torch.stack([1 - mask, mask], dim=1), mask).item() < 1e-4
    assert dice_loss(mask, mask).item() == 0


def test_losses_of_an_image_without_defect_are_finite_and_fall_with_the_map() -> None:
    mask = torch.zeros(1, 8, 8)
    losses = [dice_loss(torch.full((1, 8, 8), level), mask).item() for level in (0.0, 0.1, 0.9)]
    assert losses[0] == 0
    assert losses == sorted(losses)
