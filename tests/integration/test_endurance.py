# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Long use and several threads: nothing piles up, nothing gets mixed."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.app import Inspector
from conftest import GOLDEN, GOLDEN_SIZE

BOLT = GOLDEN / "dataset" / "bolt"
STATUS = Path("/proc/self/statm")
# Allocators keep some pages; a leak of one 70 x 70 image with its tokens per call would be ten times as much.
SLACK_PAGES = 4096


@pytest.fixture(scope="module")
def model(tiny_arguments: dict) -> AprilGan:
    prompts = {"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": ["a {}"]}
    return AprilGan(**tiny_arguments, prompts=prompts, class_name="bolt", visualizer=False).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, GOLDEN_SIZE, GOLDEN_SIZE, generator=torch.Generator().manual_seed(seed))


def census(module: nn.Module) -> tuple[int, int, int]:
    """Tensors alive, their elements, and hooks of all submodules."""
    gc.collect()
    alive = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_state_dict_hooks",
        "_load_state_dict_pre_hooks",
    )
    n_hooks = sum(len(getattr(each, name)) for each in module.modules() for name in hooks)
    return len(alive), sum(each.numel() for each in alive), n_hooks


def pages() -> int:
    """Memory of this process."""
    return int(STATUS.read_text().split()[1]) if STATUS.exists() else 0


@torch.no_grad()
def test_500_predictions(model: AprilGan) -> None:
    model.model.setup("bolt", images(2))
    batch = images(1, seed=1)
    for _ in range(20):
        first = last = model(batch)
    counted, before = census(model), pages()
    for _ in range(500):
        last = model(batch)
        assert torch.equal(last.anomaly_map, first.anomaly_map)
        assert torch.equal(last.pred_score, first.pred_score)
    last = first
    assert last is first
    assert census(model) == counted
    assert pages() - before < SLACK_PAGES


def test_100_set_ups(model: AprilGan) -> None:
    references = sorted(str(path) for path in (BOLT / "train" / "good").iterdir())

    def set_up(number: int) -> None:
        model.class_name = f"part {number}"
        model.k_shot = 1 + number % 2
        model.few_shot_source = references[: model.k_shot]
        model.prepare()

    for number in range(4):
        set_up(number)
    counted, before = census(model), pages()
    for number in range(104, 204):  # the last one has as many references as the last one before
        set_up(number)
    counted_after = census(model)
    model.class_name, model.k_shot, model.few_shot_source = "bolt", 0, None
    assert counted_after == counted
    assert pages() - before < SLACK_PAGES


def test_the_page_keeps_nothing() -> None:
    inspector = Inspector("demo", None, 112, adapters=None)
    image = BOLT / "test" / "good" / "000.png"
    for name in ("a", "b"):
        inspector.inspect(image, name)
    counted = census(inspector.module)
    for name in "cd":
        inspector.inspect(image, name)
    assert census(inspector.module) == counted


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
