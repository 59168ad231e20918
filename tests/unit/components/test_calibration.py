# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds from normal images alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from torchvision.tv_tensors import Image

from anomalib_aprilgan import AprilGan, AprilGanPostProcessor
from anomalib_aprilgan.components.calibration import log_normal_thresholds, normal_threshold
from anomalib_aprilgan.components.post_processor import MAP_MARGIN, SCORE_MARGIN
from anomalib_aprilgan.data.augmentations import augmentations
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.maps import few_shot_score
from conftest import GOLDEN

BOLT = GOLDEN / "dataset" / "bolt"
REFERENCES = sorted(str(path) for path in (BOLT / "train" / "good").iterdir())


@pytest.fixture
def make(tiny_arguments: dict) -> Callable[..., AprilGan]:
    """AprilGan with the tiny CLIP and the 4 references of the goldens."""
    few = {"class_name": "bolt", "k_shot": 4, "few_shot_source": REFERENCES, "visualizer": False}
    return lambda **kwargs: AprilGan(**{**tiny_arguments, **few, **kwargs})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3, 0.99])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_threshold_equals_a_search_over_all_scores(rate: float, count: int) -> None:
    scores = torch.rand(count, generator=torch.Generator().manual_seed(count))
    allowed = [float(score) for score in scores if sum(float(s) > score for s in scores) / count <= rate]
    threshold = normal_threshold(scores, rate, margin=1e-6)
    assert float(threshold) == pytest.approx(min(allowed) + 1e-6)
    assert (scores >= threshold).float().mean() <= rate


def test_equal_scores_are_not_flagged() -> None:
    assert not (torch.ones(5) >= normal_threshold(torch.ones(5), 0.2, margin=1e-4)).any()


def test_views_are_small_changes_of_the_image() -> None:
    image = read_rgb(REFERENCES[0])
    first, *others = augmentations(image)
    assert torch.equal(first, image)
    for view in others:
        assert view.shape == image.shape
        assert 0 <= view.min() <= view.max() <= 1
        assert 0 < (view - image).abs().mean() < 0.1


def test_views_of_one_pixel() -> None:
    assert all(view.shape == (3, 1, 1) for view in augmentations(torch.rand(3, 1, 1)))


@torch.no_grad()
def naive_thresholds(model: AprilGan, rate: float, count: int) -> tuple[float, float]:
    """Each reference's views against a memory of the others, with a fresh setup for each."""
    scores, maxima = [], []
    transform = model.pre_processor.transform
    for held_out in REFERENCES:
        rest = torch.stack([transform(Image(read_rgb(path))) for path in REFERENCES if path != held_out])
        model.model.setup("bolt", rest)
        for view in augmentations(read_rgb(held_out)):
            text, anomaly_map = model.model.score_parts(
                model.model.encode(transform(Image(view)).unsqueeze(0)), model.model.target
            )
            maxima.append(float(anomaly_map.max()))
            peak = anomaly_map.flatten().sort().values[-count:].mean()
            scores.append(float(few_shot_score(text, peak, torch.tensor([0.0, 12.0]))))
    flagged = int(rate * len(scores))
    return sorted(scores)[-1 - flagged] + SCORE_MARGIN, sorted(maxima)[-1 - flagged] + MAP_MARGIN


@pytest.mark.parametrize(("rate", "fraction", "count"), [(0.01, 0.0, 1), (0.2, 0.0, 1), (0.2, 0.1, 490)])
def test_prediction_thresholds_equal_a_naive_leave_one_out(
    make: Callable[..., AprilGan],
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    rate: float,
    fraction: float,
    count: int,
) -> None:
    model = make(false_positive_rate=rate, score_fraction=fraction)
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    expected = naive_thresholds(make(), rate, count)
    actual = (float(model.post_processor.image_threshold), float(model.post_processor.pixel_threshold))
    assert actual == pytest.approx(expected, abs=1e-5)
    assert f"Thresholds from 16 normal images, of which {int(16 * rate)} are called abnormal" in caplog.text
    assert "(4 references in 4 augmented views each; `false_positive_rate`" in caplog.text
    assert ("4 normal images are too few for a `false_positive_rate` of 0.01, which takes 100" in caplog.text) == (
        rate == 0.01
    )


@pytest.mark.parametrize(
    ("counts", "rate", "needed"),
    [
        ((2, 8, 0), 0.01, 100),
        ((4, 16, 0), 0.3, None),
        ((99, 99, 0), 0.01, 100),
        ((100, 100, 1), 0.01, None),
        ((3, 3, 0), 0.3, 4),
        ((9, 9, 0), 0.1, 10),
        ((2, 8, 0), 0.0, None),
    ],
)
def test_too_few_images_for_a_rate(
    caplog: pytest.LogCaptureFixture, counts: tuple[int, int, int], rate: float, needed: int | None
) -> None:
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        log_normal_thresholds(counts, rate, (0.1967, 2.5), normalized=True)
    first, *warnings = caplog.messages
    assert (f"{counts[0]} references in 4 augmented views each" in first) == (counts[1] == 4 * counts[0])
    assert "image score 0.1967, anomaly map 2.5000 (raw values; in normalised ones, such as those of predi" in first
    assert [f"{counts[0]} normal images are too few" in each and f"takes {needed}:" in each for each in warnings] == (
        [] if needed is None else [True]
    )


def test_copies_of_a_reference_are_held_out_together(make: Callable[..., AprilGan]) -> None:
    """Drawn twice, a reference must not meet itself in the memory bank."""
    once, twice = (
        make(k_shot=2, few_shot_source=REFERENCES[:2]),
        make(k_shot=3, few_shot_source=[*REFERENCES[:2], REFERENCES[0]]),
    )
    for model in (once, twice):
        model.prepare()
    torch.testing.assert_close(once.post_processor.pixel_threshold, twice.post_processor.pixel_threshold)


def test_one_reference_is_compared_with_itself(make: Callable[..., AprilGan], caplog: pytest.LogCaptureFixture) -> None:
    model = make(k_shot=1, few_shot_source=REFERENCES[:1])
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        model.prepare()
    assert "thresholds are too low. Use two or more" in caplog.text
    assert 0 < model.post_processor.pixel_threshold < model.model.map_upper_bound()


def test_thresholds_travel_in_the_checkpoint(make: Callable[..., AprilGan], engine: Engine, tmp_path: Path) -> None:
    model = make(false_positive_rate=0.2)
    engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = AprilGan.load_from_checkpoint(tmp_path / "model.ckpt", few_shot_source=["gone.png"] * 4)
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold
    assert loaded.post_processor.false_positive_rate == 0.2
    assert loaded.post_processor.is_calibrated


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_validation_without_defects(make: Callable[..., AprilGan], engine: Engine, shots: int, rate: float) -> None:
    """No more normal images than the rate allows are called abnormal, not even the one with the highest score."""
    data = Folder(
        "parts", root=BOLT, normal_dir="train/good", normal_test_dir="test/good", val_split_mode="same_as_test"
    )
    data.num_workers = 0
    model = make(k_shot=shots, false_positive_rate=rate)
    engine.validate(model, datamodule=data)
    batches = engine.predict(model, dataloaders=data.val_dataloader())
    labels = torch.cat([batch.pred_label for batch in batches])
    assert (len(labels), int(labels.sum())) == (4, int(4 * rate))
    marked = torch.cat([batch.pred_mask for batch in batches]).flatten(1).any(dim=1)
    assert int(marked.sum()) == int(4 * rate)
    assert model.post_processor.image_max == 1
    assert model.model.score_bounds.isnan().all()


def test_defects_without_masks_mark_what_normal_images_do_not_reach(
    make: Callable[..., AprilGan], engine: Engine
) -> None:
    data = Folder(
        "parts",
        root=BOLT,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/scratch",
        val_split_mode="same_as_test",
        num_workers=0,
    )
    model = make(false_positive_rate=0.0)
    engine.test(model, datamodule=data)
    batches = engine.predict(model, data_path=BOLT / "test" / "good")
    assert not any(batch.pred_mask.any() for batch in batches)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match=r"`false_positive_rate` must be a fraction .* got"):
        AprilGanPostProcessor(false_positive_rate=rate)
