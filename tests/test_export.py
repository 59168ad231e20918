# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Exported models against PyTorch's: torch, ONNX and OpenVINO."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from torch import Tensor

from anomalib_aprilgan import AprilGan
from conftest import GOLDEN, TINY_CLIP, TINY_RESNET

BOLT = GOLDEN / "dataset" / "bolt"
# The default on processors with bfloat16 is not accurate.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra 'onnx'"
)
needs_openvino = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("openvino", "nncf", "onnxscript"))), reason="needs the extra 'openvino'"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("engine")
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CLIPs with four layers: exporting takes seconds per layer, not per weight."""
    folder = tmp_path_factory.mktemp("small")
    vit = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], "layers": 4}}
    for name, config in (("vit", vit), ("cnn", TINY_RESNET)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[("vit", 0), ("vit", 4), ("cnn", 0), ("cnn", 4)], ids=lambda p: f"{p[0]}-{p[1]}")
def model(request: pytest.FixtureRequest, folder: Path) -> AprilGan:
    """A model that has seen nothing but its arguments."""
    backbone, shots = request.param
    return AprilGan(
        backbone=str(folder / f"{backbone}.json"),
        pretrained=None,
        image_size=56 if backbone == "vit" else 64,
        adapters=None,
        class_name="bolt",
        k_shot=shots,
        few_shot_source=str(BOLT / "train") if shots else None,
        visualizer=False,
    ).eval()


def images(batch: int) -> Tensor:
    """Images (B, 3, 90, 80) in [0, 1] that are resized by the model, in 8 bits as from files."""
    levels = torch.randint(0, 256, (batch, 3, 90, 80), generator=torch.Generator().manual_seed(batch))
    return levels / 255


def assert_agrees(model: AprilGan, batch: int, outputs: dict) -> None:
    with torch.no_grad():
        expected = model(images(batch))
    for name, tolerance in (("pred_score", 1e-4), ("anomaly_map", 1e-3)):
        actual = torch.as_tensor(np.asarray(outputs[name])).reshape(getattr(expected, name).shape)
        torch.testing.assert_close(actual, getattr(expected, name), atol=tolerance, rtol=0)
    assert np.asarray(outputs["pred_label"]).ravel().tolist() == expected.pred_label.tolist()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's word for unpickling


@pytest.mark.usefixtures("trusted")
def test_torch(model: AprilGan, engine: Engine, tmp_path: Path) -> None:
    path = engine.export(model, ExportType.TORCH, tmp_path)
    inferencer = TorchInferencer(path, device="cpu")
    for batch in (1, 3):
        with torch.no_grad():
            assert_agrees(model, batch, vars(inferencer.predict(images(batch))))
    text_tower = sum(p.numel() * 4 for name, p in model.model.encoder.clip.named_parameters() if "visual" not in name)
    assert path.stat().st_size < text_tower
    with pytest.raises(RuntimeError, match="exported without its text tower"):
        inferencer.model.model.setup("nut")
    model.model.encode_class_name("nut")  # the exporting model keeps it


@needs_onnx
def test_onnx(model: AprilGan, engine: Engine, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    path = engine.export(model, ExportType.ONNX, tmp_path)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3):
        outputs = dict(zip(names, session.run(None, {"input": images(batch).numpy()}), strict=True))
        assert_agrees(model, batch, outputs)
    shapes = [tuple(weight.dims) for weight in onnx.load(path).graph.initializer]
    text = {tuple(p.shape) for name, p in model.model.encoder.clip.named_parameters() if "visual" not in name}
    visual = {tuple(p.shape) for name, p in model.named_parameters() if "visual" in name or "adapters" in name}
    assert not set(shapes) & (text - visual - {(), *((n,) for (*_, n) in shapes if False)}) - {(s,) for s in range(999)}
    assert all(49408 not in shape for shape in shapes)
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    assert size < 4 * sum(p.numel() for name, p in model.named_parameters() if "visual" in name) + 2_000_000


@needs_openvino
def test_openvino(model: AprilGan, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the inferencer makes a cache there
    path = engine.export(model, ExportType.OPENVINO, tmp_path)
    inferencer = OpenVINOInferencer(path, device="CPU", config=FLOAT32)
    for batch in (1, 3):
        assert_agrees(model, batch, vars(inferencer.predict(images(batch))))
