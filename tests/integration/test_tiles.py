# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Images cut into tiles in runs, checkpoints, exports and comparisons."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import ExportType, TorchInferencer
from PIL import Image

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.sweep import run_portion
from anomalib_aprilgan.components.plain_export import load_export
from conftest import BOLT, DATASET, GOOD, Engines, Models, golden_data, read_pil

FEW = {"k_shot": 2, "few_shot_source": str(BOLT / "train/good"), "class_name": "bolt"}
SIZE = (123, 176)  # of 2 x 3 tiles of 70 pixels


def joined(batches: list, name: str) -> torch.Tensor:
    return torch.cat([getattr(batch, name) for batch in batches])


@pytest.mark.parametrize("aligned", [False, True])
def test_runs_and_checkpoints(engine: Engines, make_model: Models, tmp_path: Path, aligned: bool) -> None:
    runner, options = engine(tmp_path), {"tiles": [2, 3], "aligned": aligned}
    model = make_model(visualizer=True, **options, **FEW)
    (row,) = runner.test(model, datamodule=golden_data(), verbose=False)
    (plain,) = engine().test(make_model(**FEW), datamodule=golden_data(), verbose=False)
    assert row.keys() == plain.keys()
    assert row != plain
    batches = runner.predict(model, data_path=GOOD)
    assert joined(batches, "anomaly_map").shape[1:] == SIZE
    assert joined(batches, "pred_mask").shape[1:] == SIZE
    assert list(tmp_path.rglob("predictions.csv"))

    runner.trainer.save_checkpoint(tmp_path / "some.ckpt")
    loaded = AprilGan.load_from_checkpoint(tmp_path / "some.ckpt")
    again = engine().predict(loaded, data_path=GOOD)
    assert torch.equal(joined(again, "pred_score"), joined(batches, "pred_score"))
    assert torch.equal(joined(again, "anomaly_map"), joined(batches, "anomaly_map"))
    with pytest.raises(ValueError, match=r"tiles: \[2, 3\] there, \[1, 1\] here"):
        engine().predict(make_model(**FEW), data_path=GOOD, ckpt_path=tmp_path / "some.ckpt")


def test_a_checkpoint_without_tiles_still_loads(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    runner = engine(tmp_path)
    runner.predict(make_model(**FEW), data_path=GOOD)
    runner.trainer.save_checkpoint(tmp_path / "some.ckpt")
    content = torch.load(tmp_path / "some.ckpt", weights_only=True)
    del content["april_gan"]["model"]["tiles"]  # as before there were any
    torch.save(content, tmp_path / "old.ckpt")
    assert AprilGan.load_from_checkpoint(tmp_path / "old.ckpt").model.tiling.count == 1
    with pytest.raises(ValueError, match=r"tiles: \[1, 1\] there, \[2, 2\] here"):
        AprilGan.load_from_checkpoint(tmp_path / "old.ckpt", tiles=2)


def test_thresholds_from_references(engine: Engines, make_model: Models) -> None:
    """Leave-one-out with tiles: normal images stay below the threshold, which is not the middle of a range."""
    model = make_model(**{**FEW, "k_shot": 4}, tiles=2, aligned=True)
    engine().predict(model, data_path=GOOD)
    assert model.post_processor.is_calibrated
    assert 0 < float(model.post_processor.pixel_threshold) < model.model.map_upper_bound() / 2


def test_a_defect_is_where_it_lies(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    """The map of an image that has a patch of noise is highest there, whichever tiles see it."""
    source = Image.open(sorted((BOLT / "train/good").iterdir())[0]).convert("RGB").resize(SIZE[::-1])
    source.save(tmp_path / "good.png")
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    for number, (top, left) in enumerate(((5, 5), (52, 80), (100, 150))):
        pixels = np.asarray(source).copy()
        pixels[top : top + 20, left : left + 20] = noise
        folder = tmp_path / str(number)
        folder.mkdir()
        Image.fromarray(pixels).save(folder / "bad.png")
        few = {**FEW, "k_shot": 1, "few_shot_source": [str(tmp_path / "good.png")]}
        model = make_model(**few, tiles=[2, 3], aligned=True, post_processor=False)
        (batch,) = engine().predict(model, data_path=folder)
        with torch.no_grad():
            zero_shot = model.model.score(model.model.encode(batch.image), model.model.make_target("bolt"))[1]
        row, column = np.unravel_index(int((batch.anomaly_map - zero_shot)[0].argmax()), SIZE)
        assert top - 14 <= row <= top + 34
        assert left - 14 <= column <= left + 34


def test_comparison(tiny_arguments: dict) -> None:
    """A shared pass gives what a run alone gives."""
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    spec = ModelSpec("anomalib_aprilgan.AprilGan", {**tiny_arguments, "tiles": 2, "score_fraction": 0.05})
    grid = Grid({"a": spec}, {"goldens": data}, [1, 2], [0], 70, 0, {"accelerator": "cpu"})
    together = [row for _, row, _ in run_portion(grid, [Job("a", "goldens", "bolt", k, 0) for k in (1, 2)])[0]]
    ((_, alone, _),), *_ = run_portion(grid, [Job("a", "goldens", "bolt", 2, 0)])
    assert [row["status"] for row in together] == ["ok", "ok"]
    for name in ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AP"):
        assert together[1][name] == alone[name]


def test_torch_export_equals_the_model(
    engine: Engines, make_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = make_model(**FEW, tiles=2)
    file = engine().export(model, ExportType.TORCH, tmp_path)
    found = TorchInferencer(file, device="cpu").predict(GOOD / "000.png")
    (batch,) = engine().predict(model, data_path=GOOD / "000.png")
    torch.testing.assert_close(found.pred_score, batch.pred_score.cpu(), atol=1e-6, rtol=0)
    assert found.anomaly_map.shape[-2:] == (123, 123)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra 'onnx'")
def test_onnx_export_equals_the_model(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    import onnxruntime

    images = torch.stack([read_pil(path, 123) for path in sorted(GOOD.iterdir())[:3]])
    model = make_model(**FEW, tiles=2, aligned=True, pre_processor=False, post_processor=False)
    file = engine().export(model, ExportType.ONNX, tmp_path, input_size=(123, 123))
    found = onnxruntime.InferenceSession(file).run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = model.model(images)
    np.testing.assert_allclose(found[0].ravel(), expected.pred_score, atol=1e-5)
    np.testing.assert_allclose(found[1].reshape(3, 123, 123), expected.anomaly_map, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("openvino", "nncf", "onnxscript"))), reason="extra openvino")
def test_openvino_export_equals_the_model(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    import openvino

    images = torch.stack([read_pil(path, 123) for path in sorted(GOOD.iterdir())[:3]])
    model = make_model(**FEW, tiles=2, aligned=True, pre_processor=False, post_processor=False)
    file = engine().export(model, ExportType.OPENVINO, tmp_path, input_size=(123, 123))
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(images.numpy())
    with torch.no_grad():
        expected = model.model(images)
    np.testing.assert_allclose(found[0].ravel(), expected.pred_score, atol=1e-4)
    np.testing.assert_allclose(found[1].reshape(3, 123, 123), expected.anomaly_map, atol=1e-4)


def test_an_export_of_weights_equals_the_model(make_model: Models, tmp_path: Path) -> None:
    model = make_model(**FEW, tiles=2, aligned=True, score_fraction=0.05, visualizer=False)
    path = model.to_torch(tmp_path, weights_only=True)
    images = torch.rand(1, 3, 90, 90, generator=torch.Generator().manual_seed(0))
    found, expected = load_export(path)(images), model.eval()(images)
    assert torch.equal(found.pred_score, expected.pred_score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
