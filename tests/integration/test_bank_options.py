# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Turned references, local means, embeddings and means of highest values in runs, checkpoints, exports, comparisons."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import ExportType

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.sweep import run_portion
from conftest import DATASET, GOOD, Engines, Models, golden_data, read_pil

OPTIONS = {"reference_rotations": 4, "neighbourhoods": [1, 3], "reference_embeddings": True, "score_fraction": 0.05}


def scores(batches: list) -> torch.Tensor:
    return torch.cat([batch.pred_score for batch in batches])


def test_runs_and_checkpoints(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    runner = engine(tmp_path)
    model = make_model(k_shot=2, **OPTIONS)
    (plain,) = engine().test(make_model(k_shot=2), datamodule=golden_data(), verbose=False)
    (row,) = runner.test(model, datamodule=golden_data(), verbose=False)
    assert row.keys() == plain.keys()
    assert row != plain
    expected = scores(runner.predict(model, data_path=GOOD))
    runner.trainer.save_checkpoint(tmp_path / "some.ckpt")
    loaded = AprilGan.load_from_checkpoint(tmp_path / "some.ckpt")
    assert torch.equal(scores(engine().predict(loaded, data_path=GOOD)), expected)

    other = make_model(k_shot=2, neighbourhoods=[1])
    with pytest.raises(ValueError, match=r"banks: .*neighbourhoods \(1, 3\).* there"):
        engine().predict(other, data_path=GOOD, ckpt_path=tmp_path / "some.ckpt")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("reference_rotations", 3), ("neighbourhoods", [2]), ("neighbourhoods", []), ("reference_embeddings", "yes")],
)
def test_wrong_values_are_named(make_model: Models, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        make_model(**{argument: value})


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra 'onnx'")
def test_onnx_export_equals_the_model(engine: Engines, make_model: Models, tmp_path: Path) -> None:
    import onnxruntime

    images = torch.stack([read_pil(path) for path in sorted(GOOD.iterdir())[:3]])
    paths = sorted(map(str, (DATASET / "bolt" / "train" / "good").iterdir()))[:2]
    model = make_model(k_shot=2, few_shot_source=paths, pre_processor=False, post_processor=False, **OPTIONS)
    file = engine().export(model, ExportType.ONNX, tmp_path, input_size=(70, 70))
    found = onnxruntime.InferenceSession(file).run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = model.model(images)
    np.testing.assert_allclose(found[0].ravel(), expected.pred_score, atol=1e-5)


def test_comparison(tiny_arguments: dict) -> None:
    """A shared pass gives what a run alone gives."""
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    spec = ModelSpec("anomalib_aprilgan.AprilGan", {**tiny_arguments, **OPTIONS})
    grid = Grid({"a": spec}, {"goldens": data}, [1, 2], [0], 70, 0, {"accelerator": "cpu"})
    together = [row for _, row, _ in run_portion(grid, [Job("a", "goldens", "bolt", k, 0) for k in (1, 2)])[0]]
    ((_, alone, _),), *_ = run_portion(grid, [Job("a", "goldens", "bolt", 2, 0)])
    assert [row["status"] for row in together] == ["ok", "ok"]
    assert together[1]["image_AUROC"] == alone["image_AUROC"]
    assert together[1]["pixel_AP"] == alone["pixel_AP"]
