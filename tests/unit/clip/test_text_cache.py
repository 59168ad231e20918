# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Text features on disk: found again by content, never wrong, never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip import text_cache
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.text_cache import cached


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_cache, "get_pretrained_weights_dir", lambda: tmp_path)
    return text_cache.folder()


def unexpected() -> torch.Tensor:
    pytest.fail("computed again")


@pytest.mark.usefixtures("folder")
def test_computed_once_per_content() -> None:
    features = torch.randn(2, 8)
    assert torch.equal(cached("bottle", lambda: features), features)
    assert torch.equal(cached("bottle", unexpected), features)
    assert torch.equal(cached("cable", lambda: features + 1), features + 1)


def test_damaged_file_is_computed_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = torch.randn(2, 8)
    cached("bottle", lambda: features)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(cached("bottle", lambda: features), features)
    assert "can't be read and is computed again" in caplog.text
    assert torch.equal(cached("bottle", unexpected), features)


def test_no_place_to_write(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    features = torch.randn(2, 8)
    assert torch.equal(cached("bottle", lambda: features), features)
    assert "can't be kept in" in caplog.text


def test_failed_writing_leaves_no_half_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(text_cache, "save", fail)
    cached("bottle", lambda: torch.zeros(2, 8))
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
