# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Image scores of the mean of a map's highest values: predicted, validated, with a pool, and from checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components.pool import Pool
from anomalib_aprilgan.pool import smooth_against
from conftest import BOLT, GOLDEN_SIZE, Engines, Models, golden_data

FRACTION = 0.02
COUNT = round(FRACTION * GOLDEN_SIZE**2)
RAW = {"class_name": "bolt", "post_processor": False, "visualizer": False}


def peaks(maps: Tensor) -> Tensor:
    return maps.flatten(1).sort(dim=1).values[:, -COUNT:].mean(dim=1)


def predicted(engine: Engines, model: AprilGan) -> tuple[Tensor, Tensor]:
    batches = engine().predict(model, data_path=BOLT / "test")
    return torch.cat([batch.pred_score for batch in batches]), torch.cat([batch.anomaly_map for batch in batches])


def test_scores_are_scaled_by_the_range_of_the_peaks(make_model: Models, engine: Engines) -> None:
    text, _ = predicted(engine, make_model(**RAW))  # zero-shot
    model = make_model(k_shot=2, few_shot_source=str(BOLT / "train/good"), score_fraction=FRACTION, **RAW)
    scores, maps = predicted(engine, model)
    torch.testing.assert_close(scores, (text + peaks(maps) / 12) / 2)  # the theoretical range: 3 per stage

    engine().validate(model, datamodule=golden_data())
    scores, maps = predicted(engine, model)
    low, high = peaks(maps).min(), peaks(maps).max()
    torch.testing.assert_close(model.model.score_bounds, torch.stack([low, high]))
    torch.testing.assert_close(scores, (text + (peaks(maps) - low) / (high - low)) / 2)


def test_a_pool_takes_peaks_too() -> None:
    maps = torch.rand(3, 25, generator=torch.Generator().manual_seed(0))
    pool = Pool({}, torch.eye(3), [torch.zeros(3, 25, 1)], maps, torch.tensor([0.0, 1.0, 1.0]), 0.1)
    encoded = pool.encoded([0, 1, 2], torch.zeros(1))
    found, _ = pool.rate(encoded, [0, 1, 2], 5)  # a map's values are those of its patches
    own = maps.sort(dim=1).values[:, -2:].mean(dim=1)
    cosines = torch.zeros(3, 3).fill_diagonal_(-torch.inf)
    torch.testing.assert_close(found, smooth_against(own, cosines, pool.maxima))


def test_thresholds_of_another_fraction_are_not_reused(
    make_model: Models, engine: Engines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner, path = engine(tmp_path), tmp_path / "some.ckpt"
    references = {"class_name": "bolt", "k_shot": 2, "few_shot_source": str(BOLT / "train/good"), "visualizer": False}
    model = make_model(score_fraction=FRACTION, **references)
    runner.validate(model, datamodule=golden_data())
    runner.trainer.save_checkpoint(path)
    same = AprilGan.load_from_checkpoint(path)
    same.prepare()
    assert torch.equal(same.post_processor.image_threshold, model.post_processor.image_threshold)
    assert torch.equal(same.model.score_bounds, model.model.score_bounds)
    assert "Thresholds were found" not in caplog.text

    plain, other = make_model(**references), make_model(**references)
    plain.prepare()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        engine().predict(other, data_path=BOLT / "test/good/000.png", ckpt_path=path)
    assert "Thresholds were found with `score_fraction` 0.02, not 0: they need a new validation." in caplog.text
    assert other.model.score_bounds.isnan().all()
    assert torch.equal(other.post_processor.image_threshold, plain.post_processor.image_threshold)  # leave-one-out
