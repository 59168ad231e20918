# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics that the test images can't tell are absent, and named once."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import anomalib.metrics
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine import Engine
from anomalib.models import Padim

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components.metrics import F1Score, image_metrics
from conftest import GOLDEN

BOLT = GOLDEN / "dataset" / "bolt"
RANKS = ["image_AUROC", "image_F1Max", "image_AUPR"]
IMAGE = [*RANKS, "image_F1Score"]
PIXEL = ["pixel_AUROC", "pixel_F1Max", "pixel_AUPR", "pixel_AUPRO", "pixel_F1Score"]


def batch(scores: torch.Tensor, labels: torch.Tensor) -> ImageBatch:
    return ImageBatch(image=torch.zeros(len(scores), 3, 4, 4), pred_score=scores, gt_label=labels)


def values(metrics: list, *batches: ImageBatch) -> dict[str, torch.Tensor | None]:
    """The metrics by name after more batches."""
    for each in batches:
        for metric in metrics:
            metric.update(each)
    return {metric.name: metric.compute() for metric in metrics}


def test_image_metrics_are_anomalibs() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(40, generator=generator), torch.arange(40) % 3 == 0
    batches = [batch(scores[part], labels[part]) for part in torch.arange(40).split(7)]
    names = ["AUROC", "F1Max", "AUPR"]
    theirs = [getattr(anomalib.metrics, name)(["pred_score", "gt_label"], prefix="image_") for name in names]
    assert values(image_metrics(), *batches) == values(theirs, *batches)


@pytest.mark.parametrize("label", [0, 1])
def test_image_metrics_of_one_kind_are_none_until_reset(label: int) -> None:
    metrics, one, other = image_metrics(), torch.tensor([label]), torch.tensor([1 - label])
    none = dict.fromkeys(RANKS)
    assert values(metrics, batch(torch.rand(4), one.expand(4))) == none
    assert None not in values(metrics, batch(torch.rand(1), other)).values()
    for metric in metrics:
        metric.reset()
    assert values(metrics, batch(torch.rand(1), one)) == none


@pytest.mark.parametrize(("decided", "truth", "expected"), [([0, 1, 1], [0, 0, 1], 2 / 3), ([0, 1], [0, 0], None)])
def test_f1_score_is_anomalibs_where_it_is_defined(decided: list, truth: list, expected: float | None) -> None:
    images = torch.zeros(len(truth), 3, 1, 1)
    labels, masks = torch.tensor([decided, truth]) > 0, torch.tensor([decided, truth])[..., None, None] > 0
    full = ImageBatch(images, pred_label=labels[0], gt_label=labels[1], pred_mask=masks[0], gt_mask=masks[1])
    found = values([F1Score("image"), F1Score("pixel")], full, ImageBatch(images))
    assert found == {"image_F1Score": pytest.approx(expected), "pixel_F1Score": pytest.approx(expected)}
    theirs = anomalib.metrics.F1Score(["pred_label", "gt_label"], prefix="image_")
    assert values([theirs], full)["image_F1Score"] == (found["image_F1Score"] or 0)


def test_metrics_of_other_models_are_among_the_default_ones() -> None:
    names = {metric.name for metric in Padim.configure_evaluator().test_metrics}
    assert names <= {metric.name for metric in AprilGan.configure_evaluator().test_metrics} == {*IMAGE, *PIXEL}


@pytest.mark.parametrize(
    ("directories", "absent"),
    [
        ({"normal_test_dir": "test/good"}, [*IMAGE, *PIXEL]),
        ({"normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}, PIXEL),
        ({"normal_test_dir": "test/one", "abnormal_dir": "test/none"}, [*IMAGE, *PIXEL]),
    ],
    ids=["no defects", "no masks", "a single image"],
)
def test_what_is_absent_is_named_once(
    tiny_arguments: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture, directories: dict, absent: list[str]
) -> None:
    root = tmp_path / "bolt"
    shutil.copytree(BOLT, root)
    (root / "test/one").mkdir()
    shutil.copy(root / "test/good/000.png", root / "test/one")
    directories = {name: path for name, path in directories.items() if (root / path).is_dir()}
    data = Folder(
        "parts", root=root, normal_dir="train/good", **directories, num_workers=0, val_split_mode="same_as_test"
    )
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        (metrics,) = engine.test(AprilGan(**tiny_arguments, visualizer=False), datamodule=data)
    assert set(metrics) == {*IMAGE, *PIXEL} - set(absent)
    said = [record.getMessage() for record in caplog.records if "Not computed" in record.getMessage()]
    assert said == [f"Not computed, for want of normal or abnormal images, masks or decisions: {', '.join(absent)}"]
