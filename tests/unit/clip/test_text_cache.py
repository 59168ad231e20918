# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Text features on disk: found again by content, never wrong, never in the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip import text_cache
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.text import class_text_features
from anomalib_aprilgan.clip.text_cache import cached
from anomalib_aprilgan.prompts import PromptEnsemble
from small_clips import tiny


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_cache, "get_pretrained_weights_dir", lambda: tmp_path)
    return text_cache.folder()


def unit_rows(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def unexpected() -> torch.Tensor:
    pytest.fail("computed again")


@pytest.mark.usefixtures("folder")
def test_computed_once_per_content() -> None:
    features = unit_rows(2, 8)
    assert torch.equal(cached("bottle", 8, lambda: features), features)
    assert torch.equal(cached("bottle", 8, unexpected), features)
    assert torch.equal(cached("cable", 8, lambda: -features), -features)


def test_damaged_file_is_computed_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = unit_rows(2, 8)
    cached("bottle", 8, lambda: features)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(cached("bottle", 8, lambda: features), features)
    assert "can't be used and is computed again" in caplog.text
    assert torch.equal(cached("bottle", 8, unexpected), features)


def flip(path: Path, _features: torch.Tensor) -> None:
    """Ten bytes of the numbers' last digits: the rows stay unit vectors."""
    data = bytearray(path.read_bytes())
    data[-64:-24:4] = bytes(byte ^ 255 for byte in data[-64:-24:4])
    path.write_bytes(data)


def swap(path: Path, features: torch.Tensor) -> None:
    """The file of another class name."""
    (other,) = {*path.parent.iterdir()} - {path}
    path.write_bytes(other.read_bytes())
    assert not torch.equal(cached("cable", 8, unexpected), features)


def replaced_by(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path, torch.Tensor], None]:
    return lambda path, features: save_file({"text_features": change(features).contiguous()}, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "its checksum is wrong"),
        (swap, "its checksum is wrong"),
        (replaced_by(lambda features: features), "its checksum is wrong"),
        (replaced_by(lambda features: features.flip(0)), "its checksum is wrong"),
        (replaced_by(lambda features: features * torch.nan), r"expected unit rows, got norms \[nan"),
        (replaced_by(torch.zeros_like), r"expected unit rows, got norms \[0.0"),
        (replaced_by(lambda features: features.mul(2)), "expected unit rows"),
        (replaced_by(lambda features: features[:1]), r"got torch.float32 of shape \(1, 8\)"),
        (replaced_by(lambda features: features.repeat(1, 2)), r"expected float32 of shape \(2, 8\)"),
        (replaced_by(lambda features: features.double()), "got torch.float64"),
        (lambda path, features: save_file({"other": features}, path), "does not contain tensor"),
    ],
)
def test_what_was_not_written_so_is_computed_again(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path, torch.Tensor], None], reason: str
) -> None:
    features = unit_rows(2, 8)
    cached("bottle", 8, lambda: features)
    (path,) = folder.iterdir()
    cached("cable", 8, lambda: unit_rows(2, 8))
    damage(path, features)
    assert torch.equal(cached("bottle", 8, lambda: features), features)
    assert re.search(f"can't be used and is computed again: .*{reason}", caplog.text)
    assert torch.equal(cached("bottle", 8, unexpected), features)


@pytest.mark.parametrize("features", [torch.full((2, 8), torch.nan), torch.zeros(2, 8)])
def test_what_broken_weights_say_is_not_kept(folder: Path, features: torch.Tensor) -> None:
    assert torch.equal(cached("bottle", 8, lambda: features), features) or features.isnan().all()
    assert not folder.exists()


@pytest.mark.usefixtures("folder")
def test_other_word_embeddings_have_other_text_features(clip_folder: Path) -> None:
    """Also such as differ in a few values, in their order, or since they were first encoded."""
    prompts, found = PromptEnsemble(["{}"], ["bad {}"], ["a {}."]), []
    encoder = tiny(clip_folder)
    for change in (lambda weight: weight, lambda weight: weight.flip(0), lambda weight: weight + 1e-3):
        embedding = encoder.clip.token_embedding
        with torch.no_grad():
            embedding.weight.copy_(change(embedding.weight))
        found.append(class_text_features(encoder, prompts, "bottle"))
    assert not any(torch.equal(found[first], found[second]) for first, second in ((0, 1), (0, 2), (1, 2)))


def test_no_place_to_write(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    features = unit_rows(2, 8)
    assert torch.equal(cached("bottle", 8, lambda: features), features)
    assert "can't be kept in" in caplog.text


def test_failed_writing_leaves_no_half_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(text_cache, "save", fail)
    cached("bottle", 8, lambda: unit_rows(2, 8))
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("folder")
def test_model_encodes_a_class_name_once(tiny_arguments: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    first = AprilGan(**tiny_arguments).model.encode_class_name("bottle")
    other_prompts = {"normal_states": ["{}"], "abnormal_states": ["broken {}"], "templates": ["a {}."]}
    second = AprilGan(**tiny_arguments, prompts=other_prompts).model.encode_class_name("bottle")
    other_weights = AprilGan(**{**tiny_arguments, "pretrained": None}).model.encode_class_name("bottle")
    monkeypatch.setattr(ClipEncoder, "encode_text", unexpected)
    assert torch.equal(AprilGan(**tiny_arguments).model.encode_class_name("bottle"), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_weights)


@pytest.mark.usefixtures("folder")
def test_the_activation_counts(tiny_arguments: dict) -> None:
    """The same weights with QuickGELU give other text features."""
    plain, quick = (AprilGan(**tiny_arguments, quick_gelu=quick).model for quick in (False, True))
    assert not torch.equal(plain.encode_class_name("bottle"), quick.encode_class_name("bottle"))
