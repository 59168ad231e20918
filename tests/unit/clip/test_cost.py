# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What an image costs, and the warning about memory banks that cost much more than the encoder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from anomalib_aprilgan.clip import cost
from anomalib_aprilgan.clip.cost import LIMIT, least_tower_cost, search_cost, tower_cost, warn_of_slow_search
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.tiling import Tiling
from anomalib_aprilgan.memory import BankOptions
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.torch_model import AprilGanModel
from small_clips import timm_config, tiny

PROMPTS = PromptEnsemble(["{}"], ["bad {}"], ["a {}."])


def test_the_search_compares_each_token_with_each_row() -> None:
    tokens, rows, width = 7, 30, 5
    multiplications_and_additions = 2 * sum(1 for _ in range(tokens) for _ in range(rows) for _ in range(width))
    assert search_cost([(tokens, rows, width)]) == multiplications_and_additions
    assert search_cost([(tokens, rows, width)] * 4) == 4 * multiplications_and_additions


@pytest.mark.parametrize(("backbone", "size"), [("tiny.json", 70), ("resnet.json", 96)])
def test_a_pass_costs_at_least_its_convolutions_and_linear_layers(clip_folder: Path, backbone: str, size: int) -> None:
    encoder, seen = ClipEncoder(str(clip_folder / backbone), None, size), []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        seen.append(2 * module.weight[0].numel() * output.numel())

    for module in encoder.clip.visual.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    encoder(torch.zeros(1, 3, size, size))
    counted, whole = sum(seen), tower_cost(encoder)
    assert counted <= whole < 2 * counted  # attention calls its weights without their modules
    assert least_tower_cost(encoder) <= whole


def test_a_bank_of_a_fine_stage_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Four references at stride 2, as the default once was."""
    encoder = ClipEncoder(str(timm_config(tmp_path, "resnet10t")), None, image_size=128, layers=[1, 5])
    model = AprilGanModel(encoder, PROMPTS, 128)
    images = torch.randn(4, 3, 128, 128)
    target = model.make_target("bolt", images)
    assert [len(bank) for bank in target.banks] == [4 * 64 * 64, 4 * 4 * 4]
    passes = search_cost([(64 * 64, 4 * 64 * 64, encoder.widths[0]), (16, 64, 512)]) / tower_cost(encoder)
    (message,) = caplog.messages
    assert f"memory banks of 16,384 + 64 rows costs {passes:.0f} passes of the vision tower" in message
    assert passes > LIMIT
    for knob in ("`layers` than [1, 5]", "`image_size` than 128", "`k_shot`", "`coreset_sampling_ratio` below 1"):
        assert knob in message

    caplog.clear()
    encoder = ClipEncoder(str(timm_config(tmp_path, "resnet10t")), None, image_size=128)
    assert encoder.layers == [2, 3, 4, 5]
    AprilGanModel(encoder, PROMPTS, 128).make_target("bolt", images)
    assert not caplog.records


def test_the_warning_begins_at_ten_passes(clip_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = tiny(clip_folder, layers=[12])
    rows = LIMIT * tower_cost(encoder) / (2 * 25 * 64)
    for extra, warned in ((-1, False), (1, True)):
        warn_of_slow_search(encoder, [torch.zeros(1, 25, 64).expand(math.floor(rows / 25) + extra, -1, -1)], 1.0)
        assert bool(caplog.records) == warned
    caplog.clear()
    # A coreset of a fifth has a fifth of the rows, for the same tokens of an image.
    warn_of_slow_search(encoder, [torch.zeros(1, 5, 64).expand(math.floor(rows / 5) + 1, -1, -1)], 0.2)
    assert "below 0.2" in caplog.text


@pytest.mark.parametrize(("aligned", "met"), [(False, 4), (True, 1)])
def test_tiles_are_in_the_cost(clip_folder: Path, monkeypatch: pytest.MonkeyPatch, aligned: bool, met: int) -> None:
    """2 x 2 tiles and the whole image take 5 passes; each tile meets all 4 of a reference, or that at its place."""
    search, asked = met * 4 * 25 * 3 * 25 * 64 * 2, []  # operations: 4 tiles, 25 tokens of width 64, 3 references
    monkeypatch.setattr(cost, "tower_cost", lambda _: asked.append("tower") or search)
    for least, reached in ((search / (5 * LIMIT) - 1, True), (search / (5 * LIMIT) + 1, False)):
        monkeypatch.setattr(cost, "least_tower_cost", lambda _, least=least: least)
        model = AprilGanModel(tiny(clip_folder, layers=[12]), PROMPTS, 70, BankOptions(positions=4 if aligned else 1))
        model.tiling = Tiling(70, 2)
        model.make_target("bolt", torch.randn(3, 3, 123, 123))
        assert bool(asked) == reached
        asked.clear()
