# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Long use and several threads: nothing piles up, nothing gets mixed."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.app import Inspector
from conftest import BOLT, GOLDEN_SIZE, GOOD, Models

STATUS = Path("/proc/self/statm")
# Allocators keep some pages; a leak of one 70 x 70 image with its tokens per call would be several times as much.
SLACK_PAGES = 4096


@pytest.fixture(scope="module")
def model(make_model: Models) -> AprilGan:
    prompts = {"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": ["a {}"]}
    return make_model(prompts=prompts, class_name="bolt").eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, GOLDEN_SIZE, GOLDEN_SIZE, generator=torch.Generator().manual_seed(seed))


def held(module: nn.Module) -> int:
    """Bytes of all that the module holds: parameters, buffers, attributes and hooks."""
    return len(pickle.dumps(module))


def pages() -> int:
    """Memory of this process."""
    return int(STATUS.read_text().split()[1]) if STATUS.exists() else 0


@pytest.mark.slow
@torch.no_grad()
def test_predictions_leave_nothing(model: AprilGan) -> None:
    model.model.setup("bolt", images(2))
    batch = images(1, seed=1)
    first = model(batch)
    before = held(model), pages()
    for _ in range(150):
        last = model(batch)
        assert torch.equal(last.anomaly_map, first.anomaly_map)
        assert torch.equal(last.pred_score, first.pred_score)
    assert held(model) == before[0]
    assert pages() - before[1] < SLACK_PAGES


def test_set_ups_leave_nothing(model: AprilGan) -> None:
    for number in range(100, 200):  # names of the same length
        model.model.setup(f"part {number}", images(1 + number % 2))
        if number == 101:
            before = held(model), pages()
    assert held(model) == before[0]
    assert pages() - before[1] < SLACK_PAGES


@pytest.mark.slow
def test_the_page_keeps_nothing() -> None:
    inspector = Inspector("demo", None, 112, adapters=None)
    references = sorted((BOLT / "train" / "good").iterdir())[:2]
    sizes = []
    for name in "abc":
        inspector.inspect(GOOD / "000.png", name, references)
        sizes.append(held(inspector.module))
    assert sizes[1:] == sizes[:1] * 2


@pytest.mark.parametrize("shots", [0, 2])
def test_several_threads_get_what_one_gets(model: AprilGan, shots: int) -> None:
    model.model.setup("bolt", images(shots) if shots else None)
    batches = [images(1 + number % 3, seed=number) for number in range(24)]

    def predict(batch: Tensor) -> InferenceBatch:
        with torch.no_grad():
            return model.model(batch)

    alone = [predict(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(predict, batches))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.pred_score, other.pred_score, atol=1e-6, rtol=0)
        torch.testing.assert_close(one.anomaly_map, other.anomaly_map, atol=1e-5, rtol=0)
