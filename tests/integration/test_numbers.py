# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What is no number stops a run, naming the images, instead of becoming a decision; the degenerate is defined."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule
from anomalib_aprilgan.memory import distances
from conftest import GOLDEN_SIZE, GOOD, Engines, Models, golden_data


@pytest.fixture
def model(make_model: Models) -> AprilGan:
    return make_model(class_name="bolt")


def break_images(model: AprilGan, value: float, wanted: list[bool]) -> None:
    """Has the encoder give ``value`` in the last stage of those images, as when half precision overflows."""
    forward, calls = model.model.encoder.forward, iter(wanted)

    def broken(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding, stages = forward(images)
        rows = torch.tensor([next(calls, False) for _ in images])
        stages[-1] = stages[-1].masked_fill(rows[:, None, None], value)
        return embedding, stages

    model.model.encoder.forward = broken


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_prediction_names_the_image(model: AprilGan, engine: Engines, value: float) -> None:
    model.prepare()
    break_images(model, value, [False, True])
    with pytest.raises(ValueError, match=r"The scores are not finite numbers for \S+001\.png: .*32-true or bf16-mixed"):
        engine().predict(model, data_path=GOOD)


@pytest.mark.parametrize("action", ["validate", "test"])
def test_validation_and_test_name_the_images(model: AprilGan, engine: Engines, action: str) -> None:
    """A single one would make the score bounds of all others NaN, which means: not validated."""
    model.prepare()
    before = 9 if action == "test" else 0  # images of the validation that a test makes first
    break_images(model, math.nan, [False] * before + [False, True, True])
    with pytest.raises(ValueError, match=r"not finite numbers for \S+\.png, \S+\.png: "):
        getattr(engine(), action)(model, datamodule=golden_data(eval_batch_size=4))


def test_a_training_stops_before_the_adapters_are_ruined(make_model: Models, engine: Engines) -> None:
    model, trainer = make_model(adapters=None), engine(max_epochs=3)
    data = AuxiliaryDataModule(golden_data(), categories=["bolt"], train_batch_size=3, num_workers=0)
    break_images(model, math.nan, [False] * 9 + [False] * 5 + [True])  # in the second epoch
    with pytest.raises(ValueError, match=r"The losses are not finite numbers for \S+\.png, \S+\.png, \S+\.png: "):
        trainer.fit(model, datamodule=data)
    assert all(parameter.isfinite().all() for parameter in model.model.adapters.parameters())
    kept = AprilGan.load_from_checkpoint(trainer.trainer.checkpoint_callback.best_model_path, visualizer=False)
    assert all(parameter.isfinite().all() for parameter in kept.model.adapters.parameters())


def test_references_are_named(model: AprilGan) -> None:
    break_images(model, math.inf, [False, True])
    with pytest.raises(ValueError, match="The patch tokens of reference images are not finite numbers for 1: "):
        model.model.setup("bolt", torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE))


def test_tokens_as_large_as_half_precision_has_them(model: AprilGan) -> None:
    """Their squares would overflow there; lengths are taken in full precision."""
    images = torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE)
    model.model.setup("bolt", images[:1])
    with torch.no_grad():
        _, stages = model.model.encoder(images)
        large = [(tokens / tokens.abs().amax() * 65504).half() for tokens in stages]
        banks = model.model.memory.banks
        pairs = zip(distances(large, banks), distances(stages, banks), strict=True)
    for actual, wanted in pairs:
        torch.testing.assert_close(actual, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shots", [1, 3])
def test_identical_images_and_references(make_model: Models, engine: Engines, tmp_path: Path, shots: int) -> None:
    """All scores are equal, all distances 0: the bounds of the few-shot score meet."""
    image = str(GOOD / "000.png")
    model = make_model(class_name="bolt", k_shot=shots, few_shot_source=[image] * shots)
    for index in range(3):
        shutil.copy(image, tmp_path / f"{index}.png")
    batches = engine().predict(model, data_path=tmp_path)
    scores = torch.cat([batch.pred_score for batch in batches])
    assert scores.isfinite().all()
    assert len(scores.unique()) == 1
    assert [bool(batch.pred_label) for batch in batches] == [False] * 3


def test_a_constant_image(model: AprilGan, engine: Engines, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (128, 128, 128)).save(tmp_path / "grey.png")
    (batch,) = engine().predict(model, data_path=tmp_path / "grey.png")
    assert batch.anomaly_map.isfinite().all()
    assert 0 <= float(batch.pred_score) <= 1
