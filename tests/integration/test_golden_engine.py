# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The whole anomalib pipeline against the authors' implementation, on the goldens' data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import DATASET, Engines, Models, golden_data

IMAGE_METRICS = {"image_AUROC": "auroc_sp", "image_F1Max": "f1_sp", "image_AUPR": "ap_sp"}
PIXEL_METRICS = {"pixel_AUROC": "auroc_px", "pixel_F1Max": "f1_px", "pixel_AUPR": "ap_px"}
NAMES = {0: "zero", 1: "few1", 2: "few2"}  # of the goldens' arrays, by the number of shots


@pytest.fixture
def model(make_model: Models, golden: dict, shots: int, category: str) -> Models:
    """Makes the model with the references of the goldens."""
    references = [str(DATASET / path) for path in golden.get(f"few{shots}/references", []) if path.startswith(category)]
    return lambda **options: make_model(k_shot=shots, few_shot_source=references or None, **options)


@pytest.mark.parametrize("shots", NAMES)
@pytest.mark.parametrize("category", ["bolt", "fabric"])
def test_metrics(model: Models, engine: Engines, golden: dict, shots: int, category: str) -> None:
    (results,) = engine().test(model(), datamodule=golden_data(category, eval_batch_size=4))
    index = list(golden["metrics/categories"]).index(category)
    for names, tolerance in ((IMAGE_METRICS, 0.05), (PIXEL_METRICS, 0.02)):
        for ours, theirs in names.items():
            expected = golden[f"{NAMES[shots]}/metrics/{theirs}"][index]
            assert results[ours] == pytest.approx(expected, abs=tolerance + 1e-6), ours
    assert 0 <= results["pixel_AUPRO"] <= 1


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("category", ["bolt", "fabric"])
def test_maps(model: Models, engine: Engines, golden: dict, shots: int, category: str) -> None:
    """Tensor resizing moves maps a little; the rest of the pipeline must not."""
    batches = engine().predict(model(post_processor=False), datamodule=golden_data(category, eval_batch_size=4))
    maps = {path: item for batch in batches for path, item in zip(batch.image_path, batch.anomaly_map, strict=True)}
    for path, expected in zip(golden["image_paths"], golden[f"{NAMES[shots]}/anomaly_maps"], strict=True):
        if path.startswith(category):
            difference = (maps[str(DATASET / path)] - torch.from_numpy(expected)).abs()
            assert difference.max() < 3e-2
            assert difference.mean() < 5e-3


@pytest.mark.parametrize("shots", [0, 2])
def test_default_post_processor_keeps_metrics(make_model: Models, engine: Engines, shots: int) -> None:
    model, raw_model = make_model(k_shot=shots), make_model(k_shot=shots, post_processor=False)
    (normalized,) = engine().test(model, datamodule=golden_data(eval_batch_size=4))
    # The bounds of the few-shot score are the post-processor's work; use the same ones.
    raw_model.model.setup = _with_bounds(raw_model.model, model.model.score_bounds.clone())
    (raw,) = engine().test(raw_model, datamodule=golden_data(eval_batch_size=4))
    assert set(normalized) == {*raw, "image_F1Score", "pixel_F1Score"}  # which need decisions
    for name, value in raw.items():
        np.testing.assert_allclose(normalized[name], value, atol=1e-6, err_msg=name)


def _with_bounds(model: torch.nn.Module, bounds: torch.Tensor):
    setup = model.setup

    def setup_with_bounds(*args: object) -> None:
        setup(*args)
        model.score_bounds.copy_(bounds)

    return setup_with_bounds
