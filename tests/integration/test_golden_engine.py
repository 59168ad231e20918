# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The whole anomalib pipeline against the authors' implementation, on the goldens' data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_aprilgan import AprilGan
from conftest import GOLDEN

IMAGE_METRICS = {"image_AUROC": "auroc_sp", "image_F1Max": "f1_sp", "image_AUPR": "ap_sp"}
PIXEL_METRICS = {"pixel_AUROC": "auroc_px", "pixel_F1Max": "f1_px", "pixel_AUPR": "ap_px"}


def datamodule(category: str, **kwargs: object) -> MVTecAD:
    return MVTecAD(
        root=GOLDEN / "dataset", category=category, train_batch_size=4, eval_batch_size=4, num_workers=0, **kwargs
    )


def golden_references(golden: dict, shots: int, category: str) -> list[str] | None:
    if shots == 0:
        return None
    return [str(GOLDEN / "dataset" / path) for path in golden[f"few{shots}/references"] if path.startswith(category)]


def engine(folder: Path) -> Engine:
    return Engine(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, barebones=False
    )


@pytest.mark.parametrize("shots", [0, 1, 2])
@pytest.mark.parametrize("category", ["bolt", "fabric"])
def test_metrics(tiny_arguments: dict, golden: dict, tmp_path: Path, shots: int, category: str) -> None:
    model = AprilGan(
        **tiny_arguments,
        k_shot=shots,
        few_shot_source=golden_references(golden, shots, category),
        visualizer=False,
    )
    (results,) = engine(tmp_path).test(model, datamodule=datamodule(category))
    expected = {
        name.rsplit("/")[-1]: golden[name][list(golden["metrics/categories"]).index(category)]
        for name in golden
        if name.startswith(f"{f'few{shots}' if shots else 'zero'}/metrics/")
    }
    for names, tolerance in ((IMAGE_METRICS, 0.05), (PIXEL_METRICS, 0.02)):
        for ours, theirs in names.items():
            assert results[ours] == pytest.approx(expected[theirs], abs=tolerance + 1e-6), ours
    assert 0 <= results["pixel_AUPRO"] <= 1


@pytest.mark.parametrize("shots", [0, 2])
def test_maps(tiny_arguments: dict, golden: dict, tmp_path: Path, shots: int) -> None:
    """Tensor resizing moves maps a little; the rest of the pipeline must not."""
    name = f"few{shots}" if shots else "zero"
    for category in ("bolt", "fabric"):
        source = golden_references(golden, shots, category)
        model = AprilGan(**tiny_arguments, k_shot=shots, few_shot_source=source, visualizer=False, post_processor=False)
        batches = engine(tmp_path).predict(model, datamodule=datamodule(category))
        maps = {path: item for batch in batches for path, item in zip(batch.image_path, batch.anomaly_map, strict=True)}
        for path, expected in zip(golden["image_paths"], golden[f"{name}/anomaly_maps"], strict=True):
            if path.startswith(category):
                difference = (maps[str(GOLDEN / "dataset" / path)] - torch.from_numpy(expected)).abs()
                assert difference.max() < 3e-2
                assert difference.mean() < 5e-3


@pytest.mark.parametrize("shots", [0, 2])
def test_default_post_processor_keeps_metrics(tiny_arguments: dict, tmp_path: Path, shots: int) -> None:
    arguments = {**tiny_arguments, "k_shot": shots, "visualizer": False}
    model = AprilGan(**arguments)
    (normalized,) = engine(tmp_path).test(model, datamodule=datamodule("bolt"))
    raw_model = AprilGan(**arguments, post_processor=False)
    # The bounds of the few-shot score are the post-processor's work; use the same ones.
    raw_model.model.setup = _with_bounds(raw_model.model, model.model.score_bounds.clone())
    (raw,) = engine(tmp_path).test(raw_model, datamodule=datamodule("bolt"))
    for name, value in normalized.items():
        np.testing.assert_allclose(value, raw[name], atol=1e-6, err_msg=name)


def _with_bounds(model: torch.nn.Module, bounds: torch.Tensor):
    setup = model.setup

    def setup_with_bounds(*args: object) -> None:
        setup(*args)
        model.score_bounds.copy_(bounds)

    return setup_with_bounds
