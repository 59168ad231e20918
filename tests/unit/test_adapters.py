# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters: the authors' files and ours, and files that are neither; their losses against naive loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from anomalib_aprilgan.adapters import StageAdapters, dice_loss, focal_loss
from bad_files import Malicious, saved
from conftest import GOLDEN


def test_forward_equals_a_linear_layer_per_stage() -> None:
    adapters, stages = StageAdapters([5, 7], 3), [torch.randn(2, 4, 5), torch.randn(2, 9, 7)]
    for layer, tokens, actual in zip(adapters.fc, stages, adapters(stages), strict=True):
        assert isinstance(layer, nn.Linear)
        torch.testing.assert_close(actual, tokens @ layer.weight.T + layer.bias)


def test_the_authors_file_is_read() -> None:
    adapters = StageAdapters([64] * 4, 32)
    adapters.load_file(GOLDEN / "adapters.pth")
    stored = torch.load(GOLDEN / "adapters.pth", weights_only=True)["trainable_linearlayer"]
    for name, parameter in adapters.state_dict().items():
        assert torch.equal(parameter, stored[name])


def test_adapters_are_read_out_of_a_checkpoint(tmp_path: Path) -> None:
    trained, other = StageAdapters([5, 7], 3), StageAdapters([5, 7], 3)
    state = {f"model.adapters.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "model.text_features": torch.zeros(2, 3)}}, tmp_path / "model.ckpt")
    other.load_file(tmp_path / "model.ckpt")
    assert torch.equal(other.fc[1].weight, trained.fc[1].weight)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth.*'auto', 'mvtecad', 'visa'"):
        StageAdapters([5], 3).load_file(tmp_path / "nothing.pth")


def authors(content: object) -> dict[str, object]:
    return {"trainable_linearlayer": content.state_dict() if isinstance(content, nn.Module) else content}


NOT_FINITE = {**StageAdapters([5, 7], 3).state_dict(), "fc.1.bias": torch.tensor([0.0, math.nan, 0.0])}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", r"adapters\.pth can't be read"),
        (authors(Malicious()), r"adapters\.pth can't be read"),
        ({}, "holds no adapters"),
        ({"state_dict": {"other.weight": torch.zeros(1)}}, "holds no adapters"),
        ([1, 2], "holds no adapters"),
        (
            authors(StageAdapters([64] * 4, 32)),
            r"4 stages, 64 to 32 each.*needs 2 stages, 5 to 3, 7 to 3",
        ),
        (authors(StageAdapters([5], 3)), r"they have 1 stages, 5 to 3 each, this model needs 2 stages, 5 to 3, 7 to 3"),
        (authors(NOT_FINITE), r"adapters\.pth are not all finite numbers"),
    ],
)
def test_files_without_fitting_adapters_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: object, message: str
) -> None:
    path = tmp_path / "adapters.pth"
    path.write_bytes(content if isinstance(content, bytes) else saved(content, path))
    with pytest.raises(ValueError, match=message):
        StageAdapters([5, 7], 3).load_file(path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_stages_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        StageAdapters([5, 5], 3)([torch.randn(1, 4, 5)] * count)


# --- losses ---


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
