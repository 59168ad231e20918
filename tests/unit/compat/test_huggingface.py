# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The workaround for huggingface_hub: without a network, one question and not twelve."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import huggingface_hub
import pytest
import requests
from huggingface_hub import constants

from anomalib_aprilgan.clip.weights import find_weights
from anomalib_aprilgan.compat.huggingface import without_retries_offline

COMMIT = "0" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache without files, of a hub at an address that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("open_clip.pretrained.has_hf_hub", lambda *_: True)
    return tmp_path


def test_the_fault_is_still_there() -> None:
    assert inspect.signature(huggingface_hub.utils.http_backoff).parameters["max_retries"].default > 1


@pytest.mark.usefixtures("hub")
def test_missing_weights_are_missed_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"can't be reached, ConnectionError.* Fetch them on another machine"):
        find_weights("ViT-B-16-SigLIP", "webli")
    assert time.monotonic() - start < 5
    assert not constants.HF_HUB_OFFLINE


def test_what_is_in_the_cache_is_found_without_a_network(hub: Path) -> None:
    model = hub / "models--timm--ViT-B-16-SigLIP"
    file = model / "snapshots" / COMMIT / "open_clip_pytorch_model.bin"
    for path, content in ((file, "weights"), (model / "refs" / "main", COMMIT)):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    start = time.monotonic()
    assert find_weights("ViT-B-16-SigLIP", "webli").read_text() == "weights"
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("answer", "offline"),
    [
        (None, False),
        (requests.exceptions.SSLError(), False),
        (requests.Timeout(), True),
        (requests.ConnectionError(), True),
    ],
)
def test_the_hub_is_asked_where_somebody_answers(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, offline: bool
) -> None:
    def head(*_args: object, **_options: object) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(requests, "head", head)
    with without_retries_offline() as reason:
        assert constants.HF_HUB_OFFLINE == offline == (reason is not None)
    assert not constants.HF_HUB_OFFLINE
