# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Torch exports without code: equal to the model, and made of nothing but tensors and plain values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Normalize

from anomalib_aprilgan import cli, load_export
from anomalib_aprilgan.data.images import read_image
from conftest import BOLT, Engines, Models, golden_data

IMAGE = BOLT / "test" / "scratch" / "000.png"
BANKS = {"neighbourhoods": [1, 3], "reference_embeddings": True, "reference_rotations": 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k_shot": 2},
        {"k_shot": 2, **BANKS},
        {"k_shot": 2, "half_precision_memory": True},
        {"k_shot": 2, "tiles": [1, 2], "score_fraction": 0.02, "aligned": True},
        {"k_shot": 2, "memory_backbone": "resnet18", "memory_pretrained": False},
    ],
    ids=str,
)
def test_a_file_of_weights_is_the_model(make_model: Models, clip_folder: Path, tmp_path: Path, options: dict) -> None:
    """Without CLIP's files, to the bit, and without gradients."""
    config, weights = (shutil.copy(clip_folder / name, tmp_path) for name in ("tiny.json", "tiny.pt"))
    source = str(BOLT / "train") if options else None
    model = make_model(
        backbone=str(config), pretrained=str(weights), class_name="bolt", few_shot_source=source, **options
    ).eval()
    path = model.to_torch(tmp_path, "part", weights_only=True)
    Path(config).unlink()
    Path(weights).unlink()
    content = torch.load(path, weights_only=True)
    assert not [name for name in content["state_dict"] if ".clip." in name and ".clip.visual." not in name]
    exported = load_export(path)
    images = read_image(IMAGE)[None, :, :, :60].repeat(2, 1, 1, 1)
    with torch.no_grad():
        expected = model(images)
    actual = exported(images)
    for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
        assert not getattr(actual, name).requires_grad
    assert not [name for name, parameter in exported.named_parameters() if parameter.requires_grad]
    assert (exported.model.class_name, exported.model.references) == ("bolt", model.model.references)


def test_the_command_and_its_check(
    make_model: Models, engine: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From a calibrated checkpoint; `aprilgan validate` asks for no trust."""
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    module, run = make_model(k_shot=2), engine()
    run.validate(module, datamodule=golden_data(), verbose=False)
    run.trainer.save_checkpoint(checkpoint := tmp_path / "model.ckpt")
    cli.export(checkpoint=checkpoint, export_root=tmp_path)
    path = tmp_path / "weights" / "torch" / "model.pt"
    assert f"Exported to {path}" in capsys.readouterr().out
    assert load_export(path).post_processor.image_threshold == module.post_processor.image_threshold
    cli.validate(export=path, data=IMAGE.parent, checkpoint=checkpoint, score_limit=0, map_limit=0)
    assert f"{path} agrees with its model" in capsys.readouterr().out


def test_without_processors_raw_values_come_out(make_model: Models, tmp_path: Path) -> None:
    model = make_model(class_name="bolt", pre_processor=False, post_processor=False).eval()
    exported = load_export(model.to_torch(tmp_path, weights_only=True))
    images = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(exported(images).anomaly_map, model.model(images).anomaly_map)
    assert exported(images).pred_label is None


def test_what_only_code_can_make_again_is_named(make_model: Models, tmp_path: Path) -> None:
    class Own(PreProcessor):
        pass

    with pytest.raises(ValueError, match="can't hold Own, a component of your own"):
        make_model(class_name="bolt", pre_processor=Own(Normalize([0.5] * 3, [0.5] * 3))).to_torch(
            tmp_path, weights_only=True
        )
    assert not list(tmp_path.rglob("*.pt"))


def test_other_files_are_named(make_model: Models, tmp_path: Path) -> None:
    pickled = make_model(class_name="bolt").to_torch(tmp_path)
    with pytest.raises(ValueError, match=r"model\.pt can't be read: it holds more than tensors"):
        load_export(pickled)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no export of weights .*`aprilgan export`"):
        load_export(tmp_path / "other.pt")
    with pytest.raises(SystemExit, match=r"none\.ckpt"):
        cli.export(checkpoint=tmp_path / "none.ckpt", export_root=tmp_path)
