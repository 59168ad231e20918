# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of every kind out of a run's checkpoint, read by anomalib's inferencers from all that they take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image

from anomalib_aprilgan import AprilGan
from conftest import BOLT, TINY_CLIP, Engines, golden_data

IMAGE = BOLT / "test" / "scratch" / "001.png"  # not the one whose score is the threshold: rounding would decide
SIDE = 56


@pytest.fixture
def checkpoint(tmp_path: Path, engine: Engines) -> Path:
    """Of a run with a CLIP of one layer, because ONNX takes seconds per layer."""
    vit = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], "layers": 1}}
    (tmp_path / "vit.json").write_text(json.dumps(vit))
    arguments = {"backbone": str(tmp_path / "vit.json"), "pretrained": None, "image_size": SIDE, "adapters": None}
    model, run = AprilGan(**arguments, class_name="bolt", visualizer=False), engine()
    run.validate(model, datamodule=golden_data(eval_batch_size=4), verbose=False)
    run.trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    return path


@pytest.mark.parametrize("kind", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_inferencer_agrees_with_the_engine(
    checkpoint: Path, engine: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's word for unpickling
    monkeypatch.chdir(tmp_path)  # an inferencer makes a cache there
    model = AprilGan.load_from_checkpoint(checkpoint, visualizer=False)
    (expected,) = engine().predict(model, data_path=IMAGE)
    path = engine().export(model, kind, tmp_path, model_file_name="part", ckpt_path=checkpoint)
    assert path.relative_to(tmp_path) == Path("weights", kind, "part.pt" if kind == "torch" else "part.xml")
    options = (
        {"device": "CPU", "config": {"INFERENCE_PRECISION_HINT": "f32"}} if kind == "openvino" else {"device": "cpu"}
    )
    inferencer = {"torch": TorchInferencer, "openvino": OpenVINOInferencer}[kind](path, **options)
    picture = Image.open(IMAGE).convert("RGB")
    for source in (IMAGE, str(IMAGE), picture, np.array(picture)):
        actual = inferencer.predict(source)
        assert not getattr(actual.anomaly_map, "requires_grad", False)
        for name, tolerance in (("pred_score", 1e-4), ("anomaly_map", 1e-3)):
            values = [torch.as_tensor(np.asarray(getattr(each, name))).flatten() for each in (actual, expected)]
            torch.testing.assert_close(*values, atol=tolerance, rtol=0)
        assert bool(np.asarray(actual.pred_label).item()) == bool(expected.pred_label.item())
