# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""``aprilgan validate``: exports that are what the model is, and exports that are not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.deploy import ExportType

from anomalib_aprilgan import AprilGan, cli
from anomalib_aprilgan.components.export_validation import Comparison, Limits
from conftest import BOLT, DATASET, Engines, Models, golden_data

IMAGES = BOLT / "test" / "scratch"


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's word for unpickling


@pytest.fixture(scope="module", params=[0, 2], ids=["zero-shot", "few-shot"])
def model(request: pytest.FixtureRequest, make_model: Models, engine: Engines) -> AprilGan:
    """A calibrated model with its checkpoint."""
    module, run = make_model(k_shot=request.param, class_name="bolt"), engine()
    run.validate(module, datamodule=golden_data(), verbose=False)
    run.trainer.save_checkpoint(Path(run.trainer.default_root_dir) / "model.ckpt")
    return module


def checkpoint(model: AprilGan) -> Path:
    return Path(model.trainer.default_root_dir) / "model.ckpt"


def test_the_same_model_agrees(model: AprilGan, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = model.to_torch(tmp_path)
    capsys.readouterr()
    cli.validate(export=path, data=IMAGES, checkpoint=checkpoint(model), score_limit=0, map_limit=0, threads=1)
    printed = capsys.readouterr().out
    assert "decisions that differ: 0 of 5" in printed
    assert "ms per image, 1 threads: export median" in printed
    assert f"size: {path.stat().st_size / 1e6:.1f} MB" in printed
    assert printed.endswith(f"{path} agrees with its model\n")


def weights_changed(model: AprilGan, _make: Models) -> AprilGan:
    changed = AprilGan.load_from_checkpoint(checkpoint(model), visualizer=False)
    with torch.no_grad():
        for weight in changed.model.encoder.clip.visual.parameters():
            weight.mul_(1.01)
    return changed


def another_class(model: AprilGan, make: Models) -> AprilGan:
    return make(k_shot=model.request.k_shot, class_name="nut", few_shot_source=str(BOLT / "train"))


def other_references(_model: AprilGan, make: Models) -> AprilGan:
    return make(k_shot=2, class_name="bolt", few_shot_source=str(DATASET / "fabric" / "train"))


@pytest.mark.parametrize("wrong", [weights_changed, another_class, other_references])
def test_another_model_does_not(
    model: AprilGan,
    make_model: Models,
    wrong: Callable[[AprilGan, Models], AprilGan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    other = wrong(model, make_model)
    other.prepare()
    path = other.to_torch(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.validate(export=path, data=IMAGES, checkpoint=checkpoint(model))
    assert stopped.value.code == 1
    assert "differs from its model: raw" in capsys.readouterr().out


def test_limits() -> None:
    """Changed decisions are named; what is not a number exceeds every limit."""
    rows = {"raw_score": [0.1, 0.3], "raw_map": [0.0, float("nan")], "model": [True, False], "export": [True, True]}
    columns = {f"{name}{mean}": [0.0, 0.5] for name in ("pred_score", "anomaly_map") for mean in ("", "_mean")}
    extra = {"raw_score_mean": [0, 1], "raw_map_mean": [0, 1], "model_ms": [1, 3], "export_ms": [2, 4]}
    result = Comparison(pd.DataFrame({"file": ["a", "b"], **rows, **columns, **extra}), 2, 1.0, 5.0)
    assert result.faults(Limits(0.3, 1, 1)) == ["raw maps differ by up to nan, more than 1"]
    assert result.faults(Limits(0.2, 1, 0))[0] == "raw scores differ by up to 0.3, more than 0.2"
    assert result.faults(Limits(0.2, 1, 0))[2] == "1 decisions differ, more than 0"
    assert "  b: normal, export abnormal" in result.lines()
    assert "ms per image, 2 threads: export median 3.0, 95th percentile 3.9, model median 2.0" in str(result.lines())


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.bin", "expected a file that ends in .pt, .onnx, .xml"), ("none.onnx", "There is no file .*none.onnx")],
)
def test_what_is_no_export_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        cli.validate(export=tmp_path / name, data=IMAGES, checkpoint=tmp_path / "model.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 4])
def test_the_command_with_the_demo_clip(engine: Engines, tmp_path: Path, shots: int) -> None:
    """ONNX and OpenVINO, each in a fresh process."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    options = {"class_name": "bolt", "k_shot": shots, "visualizer": False}
    module, run = AprilGan("demo", "demo", 112, adapters=None, **options), engine()
    run.validate(module, datamodule=golden_data(), verbose=False)
    run.trainer.save_checkpoint(tmp_path / "model.ckpt")
    shutil.copytree(IMAGES, tmp_path / "images")
    for kind in (ExportType.ONNX, ExportType.OPENVINO):
        path = run.export(module, kind, tmp_path)
        command = [sys.executable, "-W", "ignore", "-c", "from anomalib_aprilgan.cli import main; main()", "validate"]
        options = [path, "--data", tmp_path / "images", "--checkpoint", tmp_path / "model.ckpt"]
        done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "agrees with its model" in done.stdout
