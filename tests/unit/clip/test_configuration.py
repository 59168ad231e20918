# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What an encoder is configured with."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from safetensors.torch import save_file

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD, clip_config, default_layers, image_statistics
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.weights import WEIGHTS_FILES, find_weights
from conftest import TINY_CLIP
from small_clips import tiny

SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_statistics_are_the_tags(clip_folder: Path) -> None:
    assert image_statistics("ViT-B-16-SigLIP", "webli") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for pretrained in (None, "openai", str(clip_folder / "tiny.pt")):
        assert image_statistics("ViT-L-14-336", pretrained)[0][0] == pytest.approx(0.48145466)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("ViT-XXL", "Unknown `backbone` 'ViT-XXL'"), ("no.json", "is not a file"), ("coca_ViT-L-14", "is a CoCa")],
)
def test_an_unknown_backbone(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_config(backbone)


@pytest.mark.parametrize(("content", "message"), [("{", "is not an open_clip"), ("[]", "is not"), ("{}", "it has no")])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        clip_config(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("layers", [[], [0, 3], [3, 13], [6, 3], [3, 3]])
def test_layers_out_of_range(clip_folder: Path, layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"`layers` .* from 1 to 12 \(1-based\)"):
        tiny(clip_folder, layers=layers)


@pytest.mark.parametrize(
    ("strides", "layers"),
    [
        ([4, 8, 16, 32], [1, 2, 3, 4]),
        ([2, 4, 8, 16, 32], [2, 3, 4, 5]),
        ([4, 8, 16, 32, 64], [1, 2, 3, 4]),
        ([2, 2, 4, 4, 8, 16, 16, 16, 32], [4, 5, 8, 9]),
        ([8, 16], [1, 2]),
        ([14] * 24, [6, 12, 18, 24]),
        ([16] * 14, [3, 7, 10, 14]),
        ([32] * 2, [1, 2]),
        ([1, 2], [1, 2]),  # none of the strides: equal parts
    ],
)
def test_default_layers(strides: list[int], layers: list[int]) -> None:
    assert default_layers(strides) == layers


def test_a_file_has_the_statistics_that_all_tags_of_its_architecture_share(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        assert image_statistics("ViT-B-16-SigLIP", "/models/weights.safetensors") == SIGLIP
    assert "normalised with mean (0.5, 0.5, 0.5)" in caplog.text
    assert image_statistics("ViT-L-14-336", "/models/weights.pt") == (IMAGE_MEAN, IMAGE_STD)
    assert "not known" not in caplog.text
    assert image_statistics("ViT-L-14", "/models/weights.pt") == (IMAGE_MEAN, IMAGE_STD)  # its tags differ
    assert "not known which mean and standard deviation the weights /models/weights.pt" in caplog.text


@pytest.mark.parametrize(
    ("backbone", "pretrained"),
    [
        ("{}/open_clip_config.json", "{}/open_clip_model.safetensors"),
        ("ViT-B-16", "{}/open_clip_model.safetensors"),
        ("ViT-B-16", "{}"),
        ("ViT-B-16", "local-dir:{}"),
        ("local-dir:{}", "local-dir:{}"),
    ],
)
def test_a_configuration_beside_the_file_says_the_statistics(tmp_path: Path, backbone: str, pretrained: str) -> None:
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").touch()
    found = image_statistics(backbone.format(tmp_path), pretrained.format(tmp_path))
    assert found == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert find_weights(backbone.format(tmp_path), pretrained.format(tmp_path)).name == "open_clip_model.safetensors"


def test_a_folder_as_open_clip_takes_it_is_an_encoder(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP}))
    made = ClipEncoder(str(tmp_path / "open_clip_config.json"), None, 56)
    save_file({name: each.contiguous() for name, each in made.clip.state_dict().items()}, tmp_path / WEIGHTS_FILES[0])
    folder = f"local-dir:{tmp_path}"
    assert ClipEncoder(folder, folder, 56).fingerprint() == made.fingerprint()


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a folder without weights: expected one of open_clip_model\.safet"):
        find_weights("ViT-B-16", str(tmp_path))
