# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters: the authors' files and ours, and files that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from anomalib_aprilgan.adapters import StageAdapters
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


def test_adapters_of_another_backbone_are_refused_naming_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"4 stages, 64 to 32 each.*needs 2 stages, 5 to 3, 7 to 3"):
        StageAdapters([5, 7], 3).load_file(GOLDEN / "adapters.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth.*'auto', 'mvtecad', 'visa'"):
        StageAdapters([5], 3).load_file(tmp_path / "nothing.pth")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off"])
def test_a_file_that_torch_cannot_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adapters.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"adapters\.pth can't be read"):
        StageAdapters([5], 3).load_file(tmp_path / "adapters.pth")


class Malicious:
    def __reduce__(self) -> tuple:
        return print, ("code in a pickle ran",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"trainable_linearlayer": Malicious()}, tmp_path / "adapters.pth")
    with pytest.raises(ValueError, match="can't be read"):
        StageAdapters([5], 3).load_file(tmp_path / "adapters.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"state_dict": {"other.weight": torch.zeros(1)}}, [1, 2]])
def test_a_file_without_adapters_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no adapters"):
        StageAdapters([5], 3).load_file(tmp_path / "other.pth")


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_stages_is_no_match(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        StageAdapters([5, 5], 3)([torch.randn(1, 4, 5)] * count)


def test_adapters_of_a_single_stage_are_refused_too(tmp_path: Path) -> None:
    torch.save({"trainable_linearlayer": StageAdapters([5], 3).state_dict()}, tmp_path / "adapters.pth")
    with pytest.raises(ValueError, match=r"they have 1 stages, 5 to 3 each, this model needs 2 stages, 5 to 3, 7 to 3"):
        StageAdapters([5, 7], 3).load_file(tmp_path / "adapters.pth")
