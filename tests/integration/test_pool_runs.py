# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A pool in anomalib's runs: the authors' arrays, what is added to text and references, folders, files, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.comparison import runs
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.components import pool as components
from anomalib_aprilgan.components import pool_predictions
from bad_files import write_bad
from conftest import BOLT, DATASET, GOLDEN, Engines, Models, golden_data

RAW = {"post_processor": False, "class_name": "bolt"}
Found = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The goldens' nine test images of bolts."""
    return Path(shutil.copytree(BOLT / "test", tmp_path / "bolts"))


def by_name(predictions: list[ImageBatch]) -> Found:
    """Score and map of each image."""
    return {
        "/".join(Path(path).parts[-2:]): (score, anomaly_map)
        for batch in predictions
        for path, score, anomaly_map in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True)
    }


def predict(make_model: Models, engine: Engines, images: Path, precision: str = "32-true", **options: object) -> Found:
    return by_name(engine(precision=precision).predict(make_model(**RAW, **options), data_path=images))


def close(actual: Found, expected: Found, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        for value, other in zip(values, expected[name], strict=True):
            torch.testing.assert_close(value, other, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def alone(make_model: Models, engine: Engines) -> Found:
    """Predictions by the pool alone."""
    return predict(make_model, engine, BOLT / "test", adapters=None, pool=True)


def test_a_pool_alone_equals_the_authors(alone: Found) -> None:
    """Maps are scaled by the range of the patch scores, for each of the 4 stages. Pillow itself resized theirs."""
    with np.load(GOLDEN / "pool.npz") as golden:
        names = [str(path).removeprefix("bolt/test/") for path in golden["bolt/image_paths"]]
        scores, maps = (torch.from_numpy(golden[f"bolt/{name}"]) for name in ("scores_k1_2_3", "anomaly_maps"))
        patches = sum(torch.from_numpy(golden[f"bolt/scores_r{r}"]).mean(dim=0) for r in (1, 3, 5)) / 3
    maps = 4 * (maps - patches.min()) / (patches.max() - patches.min())
    close(alone, dict(zip(names, zip(scores, maps, strict=True), strict=True)), 0.02)


@pytest.mark.parametrize("k_shot", [0, 2])
def test_it_is_added_to_text_and_references(make_model: Models, engine: Engines, alone: Found, k_shot: int) -> None:
    references = {"k_shot": k_shot, "few_shot_source": str(BOLT / "train" / "good") if k_shot else None}
    plain = predict(make_model, engine, BOLT / "test", **references)
    expected = {}
    for name, (score, anomaly_map) in plain.items():
        pooled, total = alone[name][0], anomaly_map + alone[name][1]
        if k_shot:  # the mean of text score and map's maximum, scaled by the theoretical range
            text = 2 * score - anomaly_map.max() / 12
            expected[name] = ((text + pooled) / 2 + total.max() / 16) / 2, total
        else:
            expected[name] = (score + pooled) / 2, total
    close(predict(make_model, engine, BOLT / "test", pool=True, **references), expected)


def test_a_folder_is_a_pool_with_what_can_be_read_of_it(
    make_model: Models, engine: Engines, alone: Found, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An image in it, under whatever name, is not compared with itself; one that is not is compared with all."""
    bad = write_bad(folder)
    options = {"adapters": None, "pool_source": str(folder)}
    close(predict(make_model, engine, BOLT / "test", **options), alone)
    assert all(str(path) in caplog.text for path in bad.values())
    (folder / "good" / "000.png").unlink()
    shutil.copytree(BOLT / "test" / "good", folder.with_name("copies") / "good")
    (folder.with_name("copies") / "good" / "001.png").rename(folder.with_name("copies") / "good" / "copy.png")
    found = predict(make_model, engine, folder.with_name("copies"), **options)
    torch.testing.assert_close(found["good/000.png"][1], alone["good/000.png"][1], atol=1e-5, rtol=0)
    inside = predict(make_model, engine, folder / "good", **options)
    for value, other in zip(found["good/copy.png"], inside["good/001.png"], strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("options", [{"half_precision_memory": True}, {"precision": "bf16-mixed"}])
def test_half_precision(make_model: Models, engine: Engines, options: dict) -> None:
    """Features rounded to 8 bits move distances, which are scaled by the pool's narrow range, to maps up to 8."""
    full = predict(make_model, engine, BOLT / "test", pool=True)
    close(predict(make_model, engine, BOLT / "test", pool=True, **options), full, 0.2)


def test_thresholds_are_those_of_a_validation_with_the_pool(
    make_model: Models, engine: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same images are validated and tested: their pool is made once. A checkpoint holds none of its tokens."""
    calls, make_pool = [], pool_predictions.make_pool
    monkeypatch.setattr(pool_predictions, "make_pool", lambda *given: calls.append(given) or make_pool(*given))
    model, data = make_model(pool=True), golden_data()
    (metrics,) = engine(tmp_path).test(model, datamodule=data)
    assert len(calls) == 1
    assert model.post_processor.is_calibrated
    raw = by_name(engine().predict(make_model(pool=True, **RAW), data_path=BOLT / "test"))
    good = [float(score) for name, (score, _) in raw.items() if name.startswith("good")]
    bad = [float(score) for name, (score, _) in raw.items() if name.startswith("scratch")]
    assert metrics["image_AUROC"] == pytest.approx(np.mean([[b > g for g in good] for b in bad]), abs=1e-6)
    (saved,) = {path.resolve() for path in tmp_path.rglob("model.ckpt")}
    assert saved.stat().st_size < 2e6
    loaded = AprilGan.load_from_checkpoint(saved)
    assert loaded.uses_pool
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold
    without = AprilGan.load_from_checkpoint(saved, pool=False)
    engine().predict(without, data_path=BOLT / "test" / "good" / "000.png")
    assert not without.post_processor.is_calibrated


def test_a_comparison_of_a_model_with_a_pool(
    make_model: Models, engine: Engines, tiny_arguments: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    specs = {"pool": ModelSpec("anomalib_aprilgan.AprilGan", {**tiny_arguments, "pool": True})}
    cpu = {"accelerator": "cpu"}
    grid = Grid(models=specs, datasets={"goldens": data}, shots=[0], seeds=[0], mask_size=70, thumbnails=0, trainer=cpu)
    seen = []
    monkeypatch.setattr(runs, "measure", lambda scores, *_: seen.extend(scores) or {})
    _, row, _ = runs.run_job(grid, Job("pool", "goldens", "bolt", 0, 0))
    assert row["status"] == "ok", row
    expected = [float(score) for score, _ in predict(make_model, engine, BOLT / "test", pool=True).values()]
    np.testing.assert_allclose(sorted(seen), sorted(expected), atol=1e-4)


def test_the_cost_is_told_and_refused_before_it_is_paid(
    make_model: Models, engine: Engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", components.__name__)
    predict(make_model, engine, BOLT / "test" / "good", pool=True)
    # 4 images, 25 patches of width 64, 4 stages, 3 neighbourhoods, 6 pairs.
    assert f"{6 * 4 * 3 * 2 * 25**2 * 64:.1e} floating-point operations" in caplog.text
    monkeypatch.setattr(components.shutil, "disk_usage", lambda _: components.shutil._ntuple_diskusage(0, 0, 1000))
    monkeypatch.setattr(components, "mutual_scores", None)
    with pytest.raises(ValueError, match=r"temporary files in .*only 0\.00 GiB are free.*fewer images, a smaller"):
        predict(make_model, engine, BOLT / "test" / "good", pool=True)


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({"pool": True, "pool_source": "parts"}, "good", r"`pool` .* or `pool_source` \(a folder, here 'parts'\)"),
        ({"pool": True}, "good/000.png", "at least 2 of them, got 1"),
        ({"pool_source": "nowhere"}, "good", "`pool_source` 'nowhere' holds no images: Path does not exist"),
    ],
)
def test_what_is_no_pool_is_an_error(
    make_model: Models, engine: Engines, options: dict, images: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(make_model, engine, BOLT / "test" / images, **options)


@pytest.mark.parametrize("export", ["to_torch", "to_onnx"])
def test_a_pool_is_not_exported(make_model: Models, tmp_path: Path, export: str) -> None:
    with pytest.raises(ValueError, match="A pool can't be exported"):
        getattr(make_model(pool=True, class_name="bolt"), export)(tmp_path)
