# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Exported models against PyTorch's: torch, ONNX and OpenVINO."""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import main
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.compat.onnx import session_with
from anomalib_aprilgan.components import export
from anomalib_aprilgan.components.export_runtimes import RAW
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
    """Two CLIPs of few layers: exporting takes seconds per layer, not per weight."""
    folder = tmp_path_factory.mktemp("small")
    vit = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], "layers": 2}}
    for name, config in (("vit", vit), ("cnn", TINY_RESNET)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[("vit", 0), ("vit", 4), ("cnn", 0), ("cnn", 4)], ids=lambda p: f"{p[0]}-{p[1]}")
def model(request: pytest.FixtureRequest, folder: Path) -> AprilGan:
    """A model that has seen nothing but its arguments."""
    backbone, shots = request.param
    return few_shot(folder, backbone, shots).eval()


def few_shot(folder: Path, backbone: str = "vit", shots: int = 4, **memory: object) -> AprilGan:
    return AprilGan(
        backbone=str(folder / f"{backbone}.json"),
        pretrained=None,
        image_size=56 if backbone == "vit" else 64,
        adapters=None,
        class_name="bolt",
        k_shot=shots,
        few_shot_source=str(BOLT / "train") if shots else None,
        visualizer=False,
        **memory,
    )


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


@pytest.fixture(scope="module")
def onnx_file(model: AprilGan, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in ONNX: the CNN for images of one size, the ViT for all sizes."""
    input_size = (90, 80) if "cnn" in model.hparams.backbone else None
    return engine.export(model, ExportType.ONNX, tmp_path_factory.mktemp("onnx"), input_size=input_size)


@needs_onnx
def test_onnx(model: AprilGan, onnx_file: Path) -> None:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3):
        outputs = session.run(None, {"input": images(batch).numpy()})
        assert_agrees(model, batch, dict(zip(names, outputs, strict=True)))
    with torch.no_grad():
        expected = model.model(model.pre_processor(images(3)))
    raw = session_with(onnx_file, RAW).run(list(RAW), {"input": images(3).numpy()})
    for actual, value in zip(raw, (expected.pred_score, expected.anomaly_map), strict=True):
        torch.testing.assert_close(torch.as_tensor(actual), value, atol=1e-4, rtol=0)
    weights = [weight.name for weight in onnx.load(onnx_file).graph.initializer]
    assert any(".visual." in name for name in weights)
    assert not [name for name in weights if ".clip." in name and ".visual." not in name]
    held = [tensor for name, tensor in model.state_dict().items() if ".clip." not in name or ".visual." in name]
    assert onnx_file.with_suffix(".onnx.data").stat().st_size < 1.1 * sum(tensor.nbytes for tensor in held) + 200_000


@pytest.mark.slow
@needs_onnx
def test_onnx_with_small_memory_banks(folder: Path, engine: Engine, tmp_path: Path) -> None:
    import onnxruntime

    model = few_shot(folder, coreset_sampling_ratio=0.5, half_precision_memory=True).eval()
    session = onnxruntime.InferenceSession(engine.export(model, ExportType.ONNX, tmp_path, input_size=(90, 80)))
    names = [output.name for output in session.get_outputs()]
    assert_agrees(model, 2, dict(zip(names, session.run(None, {"input": images(2).numpy()}), strict=True)))
    assert model.model.memory.stage0.dtype == torch.bfloat16


@needs_openvino
def test_openvino_reads_onnx(model: AprilGan, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What anomalib's OpenVINO export does first."""
    monkeypatch.chdir(tmp_path)  # the inferencer makes a cache there
    inferencer = OpenVINOInferencer(onnx_file, device="CPU", config=FLOAT32)
    for batch in (1, 3):
        assert_agrees(model, batch, vars(inferencer.predict(images(batch))))


@pytest.mark.slow
@needs_openvino
def test_openvino(folder: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = few_shot(folder).eval()
    reuse_onnx(monkeypatch, tmp_path)
    parameters = sum(p.numel() for name, p in model.named_parameters() if ".clip." not in name or ".visual." in name)
    for compression, share in ((None, 1.2), (CompressionType.FP16, 0.7), (CompressionType.INT8, 0.5)):
        root = tmp_path / str(compression)
        path = engine.export(model, ExportType.OPENVINO, root, compression_type=compression)
        assert path.with_suffix(".bin").stat().st_size < share * 4 * parameters
        outputs = OpenVINOInferencer(path, device="CPU", config=FLOAT32).predict(images(3))
        if compression is None:
            assert_agrees(model, 3, vars(outputs))
        with torch.no_grad():
            expected = model(images(3))
        # Coarse if compressed, but the same map.
        maps = torch.stack([torch.as_tensor(outputs.anomaly_map).flatten(), expected.anomaly_map.flatten()])
        assert torch.corrcoef(maps)[0, 1] > 0.9


def reuse_onnx(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes the ONNX file that OpenVINO converts only once, as this takes most of the time."""
    export_onnx, made = AprilGan.to_onnx, []

    def once(model: AprilGan, _root: Path, *args: object, **kwargs: object) -> Path:
        made[:] = made or [export_onnx(model, folder, *args, **kwargs)]
        return made[0]

    monkeypatch.setattr(AprilGan, "to_onnx", once)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("shots", [0, 2])
def test_an_inferencer_agrees_with_the_engine_on_files(
    tiny_arguments: dict, engine: Engine, tmp_path: Path, shots: int
) -> None:
    """Through decoding and resizing, to the bit."""
    source = str(BOLT / "train")
    model = AprilGan(
        **tiny_arguments, class_name="bolt", k_shot=shots, few_shot_source=source if shots else None, visualizer=False
    )
    batches = engine.predict(model, data_path=BOLT / "test" / "scratch")
    inferencer = TorchInferencer(engine.export(model, ExportType.TORCH, tmp_path), device="cpu")
    for batch in batches:
        with torch.no_grad():
            actual = inferencer.predict(batch.image_path[0])
        assert torch.equal(actual.pred_score, batch.pred_score)
        assert torch.equal(actual.anomaly_map, batch.anomaly_map)


@pytest.mark.slow
@pytest.mark.usefixtures("trusted")
def test_export_from_a_checkpoint_and_again_with_another_class_name_and_references(
    tiny_arguments: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's bounds and thresholds are exported; its adapters serve other parts without training."""
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    first = AprilGan(**tiny_arguments, k_shot=2, visualizer=False)
    data = MVTecAD(GOLDEN / "dataset", "bolt", eval_batch_size=4, num_workers=0)
    engine.validate(first, datamodule=data)
    checkpoint = tmp_path / "model.ckpt"
    engine.trainer.save_checkpoint(checkpoint)
    exported = TorchInferencer(engine.export(first, "torch", tmp_path / "a", ckpt_path=checkpoint), device="cpu").model
    assert torch.equal(exported.model.score_bounds, first.model.score_bounds)
    assert exported.post_processor.image_threshold == first.post_processor.image_threshold
    with torch.no_grad():
        assert_agrees(first.eval(), 3, exported(images(3))._asdict())

    arguments = {**tiny_arguments, "adapters": str(checkpoint), "class_name": "metal bracket", "k_shot": 2}
    command = [f"--model.{name}={value}" for name, value in arguments.items()]
    references = f"--model.few_shot_source={GOLDEN / 'dataset' / 'fabric' / 'train'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["anomalib", "export", "--model=AprilGan", *command, references, "--export_type=torch", "--export_root=b"],
    )
    started = time.monotonic()
    main()
    assert time.monotonic() - started < 30
    second = TorchInferencer(tmp_path / "b" / "weights" / "torch" / "model.pt", device="cpu").model
    assert second.model.class_name == "metal bracket"
    assert all("fabric" in path for path in second.reference_paths)
    assert torch.equal(second.model.adapters.fc[0].weight, first.model.adapters.fc[0].weight)
    assert not torch.equal(second.model.text_features, first.model.text_features)
    assert second.post_processor.image_threshold != first.post_processor.image_threshold


@pytest.mark.parametrize(
    ("export_type", "missing", "extra"),
    [("onnx", "onnx", "onnx"), ("onnx", "onnxscript", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_missing_modules_name_the_extra(
    tiny_arguments: dict,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    export_type: str,
    missing: str,
    extra: str,
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ModuleNotFoundError, match=rf"'{missing}' is not installed.*anomalib-aprilgan\[{extra}\]"):
        engine.export(AprilGan(**tiny_arguments), export_type, tmp_path)


@pytest.mark.slow
@needs_onnx
def test_the_short_name_stays_unique(tiny_arguments: dict, tmp_path: Path) -> None:
    model = AprilGan(**tiny_arguments, class_name="bolt", visualizer=False)
    gc.disable()
    try:
        model.to_onnx(tmp_path)
        names = [each.__name__ for each in subclasses(AnomalibModule)]
    finally:
        gc.enable()
    assert names.count("AprilGan") == 1


def subclasses(cls: type) -> list[type]:
    """All of them, direct and indirect, as jsonargparse looks for a short name."""
    return [each for direct in cls.__subclasses__() for each in (direct, *subclasses(direct))]
