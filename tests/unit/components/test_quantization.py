# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""8-bit models of OpenVINO: what is made 8-bit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.deploy import CompressionType

from anomalib_aprilgan import AprilGan, DemoDataModule
from anomalib_aprilgan.components import export, quantization
from anomalib_aprilgan.components.calibration_images import images_of_datamodule, images_of_references
from anomalib_aprilgan.components.quantization import ENCODER_MARK, Agreement
from conftest import BOLT, GOOD, TINY_CLIP, Engines, Models, golden_data

needs_openvino = pytest.mark.usefixtures("_openvino")


@pytest.fixture
def _openvino() -> None:
    for module in ("openvino", "nncf", "onnxscript"):
        pytest.importorskip(module)


def test_images_of_references_have_painted_defects() -> None:
    paths = [str(GOOD / "000.png"), str(GOOD / "000.png"), str(GOOD / "001.png")]
    normal, checked = images_of_references(paths, 64, (64, 64))
    assert (len(normal), len(checked)) == (8, 16)
    for good, (image, mask) in zip(normal, checked[8:], strict=True):
        changed = (image - good).abs().amax(dim=1)[0]
        assert mask.shape == (64, 64)
        assert 0 < mask.mean() < 0.3
        assert changed[mask == 1].mean() > 10 * changed[mask == 0].mean()
    assert all(torch.equal(a, b.image) and not b.mask.any() for a, b in zip(normal, checked[:8], strict=True))
    assert images_of_references(paths, 64, (80, 90))[1][-1].image.shape == (1, 3, 80, 90)


def test_images_of_a_data_module() -> None:
    normal, checked = images_of_datamodule(golden_data(), 64, (80, 90))
    assert {image.shape for image in normal} == {(1, 3, 80, 90)}
    assert (len(normal), len(checked)) == (4, 9)
    assert sorted(bool(mask.any()) for _, mask in checked) == [False] * 4 + [True] * 5
    assert all(mask.shape == (64, 64) for _, mask in checked)


def agreement(n: int, flipped: int, noise: float, masks: bool, distance: float = 0.3) -> Agreement:
    """N images with a bright spot each, of which so many decisions differ; maps with noise in the 8-bit model."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(n, 8, 8, generator=generator) * 0.5
    truth = torch.zeros(n, 8, 8)
    truth[:, 2:4, 2:4] = 1
    maps = maps + truth
    other = maps + noise * torch.rand(n, 8, 8, generator=generator)
    labels = torch.ones(2, n, dtype=torch.bool)
    labels[1, :flipped] = False
    scores = torch.full((2, n), 0.8)
    known = truth if masks else torch.full_like(truth, torch.nan)
    return Agreement(scores, torch.stack([maps, other]), labels, torch.full((n,), 0.5 + distance), known)


@pytest.mark.parametrize(
    ("result", "faults"),
    [
        (agreement(100, 1, 0.1, masks=True), []),
        (agreement(100, 1, 0.1, masks=False), []),
        (agreement(100, 2, 0.1, masks=True), ["less than 99% of decisions agree"]),
        (agreement(100, 0, 3.0, masks=True), ["pixel AUROC differs by more than 0.01"]),
        (agreement(100, 0, 3.0, masks=False), ["maps correlate by less than 0.98"]),
        (agreement(100, 100, 0, masks=True, distance=0.04), ["no score is away from the threshold, so that"]),
        (agreement(100, 0, torch.nan, masks=False), ["maps correlate by less than 0.98"]),
    ],
)
def test_what_an_8_bit_model_must_keep(result: Agreement, faults: list[str]) -> None:
    found = result.faults()
    assert len(found) == len(faults)
    assert all(each.startswith(fault) for each, fault in zip(found, faults, strict=True))


def test_the_numbers_of_a_comparison() -> None:
    text = str(agreement(10, 1, 0.0, masks=True))
    assert "on 10 images raw scores differ by up to 0 (mean 0)" in text
    assert "correlation 1.0000); 9 of 10 decisions away from the threshold agree; pixel AUROC 1.0000" in text
    assert "pixel AUROC is not known (no masks)" in str(agreement(10, 1, 0.0, masks=False))


def test_without_images_and_with_accuracy_control(make_model: Models, tmp_path: Path) -> None:
    """Said before anything is translated."""
    for module in ("openvino", "nncf"):
        pytest.importorskip(module)
    model = make_model(class_name="bolt")
    with pytest.raises(ValueError, match=r"give references \(`k_shot`\) or a data module \(`--data`\)"):
        model.to_openvino(tmp_path, compression_type="int8_ptq")
    with pytest.raises(ValueError, match="INT8_ACQ is not offered: take INT8_PTQ"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8_ACQ)
    assert not list(tmp_path.iterdir())


def small_model(folder: Path, **options: object) -> AprilGan:
    vit = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], "layers": 1}}
    (folder / "vit.json").write_text(json.dumps(vit))
    arguments = {"backbone": str(folder / "vit.json"), "pretrained": None, "image_size": 56, "adapters": None}
    return AprilGan(**arguments, class_name="bolt", visualizer=False, **options).eval()


def is_8_bit(operation: Any) -> bool:
    """Whether the weights of a product or convolution are of 8 bits."""
    weights = operation.input_value(1).get_node()
    while weights.get_type_name() in {"Convert", "Multiply", "Subtract"}:
        weights = weights.input_value(0).get_node()
    return weights.get_type_name() == "FakeQuantize" or str(weights.get_element_type()) in {
        "<Type: 'int8_t'>",
        "<Type: 'uint8_t'>",
    }


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("compression", ["int8", "int8_ptq"])
def test_only_the_encoder_is_8_bit(
    engine: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Through Engine.export, from references."""
    import openvino

    model = small_model(tmp_path, k_shot=2, few_shot_source=str(BOLT / "train"))
    said: list[str] = []
    for module in (quantization, export):  # not caplog: the conversion takes its handler away
        monkeypatch.setattr(module.logger, "info", lambda text, *values: said.append(text % values))
    path = engine().export(model, "openvino", tmp_path, compression_type=compression)
    assert said[0].startswith("8 bits beside float32: on 16 images raw scores differ by up to")
    assert f"aprilgan validate {path} --data FOLDER" in said[1]
    made = openvino.Core().read_model(path)
    operations = [each for each in made.get_ops() if each.get_type_name() in quantization.OPERATIONS]
    of_encoder = [each.get_friendly_name().startswith(ENCODER_MARK) for each in operations]
    assert [is_8_bit(each) for each in operations] == of_encoder
    assert sum(of_encoder) >= 4  # the matrix products of a block
    normal, _ = images_of_references([str(GOOD / "000.png")], 56, (56, 56))
    with torch.no_grad():
        expected = model.model(model.pre_processor(normal[0])).anomaly_map
    actual = quantization.run_openvino(made)(normal[0])["raw_map"]
    assert np.corrcoef(actual.ravel(), expected.numpy().ravel())[0, 1] > 0.98


@pytest.mark.slow
@needs_openvino
def test_what_fails_the_check_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(tmp_path, k_shot=2, few_shot_source=str(BOLT / "train"))
    monkeypatch.setattr(quantization, "AUROC_LOSS", -1)
    with pytest.raises(ValueError, match=r"8-bit model is not written: pixel AUROC .* Beside float32, on 16 images"):
        model.to_openvino(tmp_path / "refused", compression_type="int8")
    assert not list(tmp_path.glob("refused/**/*.*"))


@pytest.mark.slow
@needs_openvino
def test_a_vit_b_16_keeps_its_decisions(tmp_path: Path) -> None:
    """With random weights, as an export makes it, on other images than it is calibrated on."""
    import openvino

    data = DemoDataModule(tmp_path / "data", "moon")
    normal, test = images_of_datamodule(data, 112, (112, 112))
    options = {"class_name": "moon", "k_shot": 4, "few_shot_source": str(tmp_path / "data/moon/train/good")}
    model = AprilGan("ViT-B-16", None, 112, adapters=None, visualizer=False, **options)
    whole = openvino.Core().read_model(model.to_openvino(tmp_path))
    small = quantization.quantized(whole, normal, weights_only=False)
    agreement = Agreement.of([whole, small], test[::3])
    assert agreement.faults() == []
    assert len(agreement.agreeing) == 20
    products = [each for each in small.get_ops() if each.get_type_name() == "MatMul"]
    assert sum(is_8_bit(each) for each in products) >= 12 * 4  # of 12 blocks
