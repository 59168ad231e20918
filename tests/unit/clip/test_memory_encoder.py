# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The second encoder: against plain calls of timm, against AnomalyDINO, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.clip.memory_encoder import MemoryEncoder
from anomalib_aprilgan.memory import nearest_distance
from conftest import Models

CLIP = (IMAGE_MEAN, IMAGE_STD)
DINO, CNN, VIT = "vit_small_patch14_dinov2", "test_efficientnet", "test_vit"


def pictures(n: int, size: int) -> Tensor:
    """Images in [0, 1]."""
    return torch.rand(n, 3, size, size, generator=torch.manual_seed(0))


def weights_of(name: str, folder: Path, seed: int = 1, **options: object) -> tuple[Path, torch.nn.Module]:
    """A file of random weights and the network with them."""
    torch.manual_seed(seed)
    network = timm.create_model(name, **options).eval()
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path, network


@torch.no_grad()
@pytest.mark.parametrize("size", [70, 98])
def test_distances_equal_those_of_anomaly_dino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Its extractor, bank and search, with layer 12 alone: also where positions are resized."""
    path, network = weights_of(DINO, tmp_path, img_size=56)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: create(name, img_size=56, dynamic_img_size=True))
    theirs = AnomalyDINOModel(encoder_name=DINO)
    theirs.feature_encoder.feature_extractor.load_state_dict(network.state_dict())
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **{"img_size": 56, **options}))
    ours = MemoryEncoder(DINO, str(path), size, CLIP, [12])

    mean, std = timm.get_pretrained_cfg(DINO).mean, timm.get_pretrained_cfg(DINO).std
    images = pictures(4, size)
    as_theirs, as_ours = normalize(images, list(mean), list(std)), normalize(images, *map(list, CLIP))
    theirs.train()(as_theirs[:2])
    theirs.fit()
    tokens = theirs.eval().extract_features(as_theirs[2:])
    queries = F.normalize(tokens.flatten(0, 1), dim=1)
    expected = (1 - queries @ theirs.memory_bank.T).clamp(0, 2).amin(dim=1).view(2, -1)

    (rows,) = ours(as_ours[:2])
    bank = F.normalize(rows.flatten(0, 1), dim=-1)
    (found,) = ours(as_ours[2:])
    assert expected.mean() > 1e-3
    torch.testing.assert_close(nearest_distance(found, bank), expected, atol=1e-5, rtol=0)
    # Their image score is made of exactly these.
    top = nearest_distance(found, bank).topk(max(1, expected.shape[1] // 100), dim=1).values.mean(dim=1, keepdim=True)
    torch.testing.assert_close(top, theirs(as_theirs[2:]).pred_score, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_vit_gives_normed_patch_tokens_of_its_own_preprocessing(tmp_path: Path) -> None:
    path, network = weights_of("test_vit", tmp_path, img_size=160)
    encoder = MemoryEncoder("test_vit", path, 160, CLIP, [2, 6])
    images = pictures(2, 160)
    config = timm.get_pretrained_cfg("test_vit")
    own = normalize(images, list(config.mean), list(config.std))
    expected = network.forward_intermediates(own, indices=[1, 5], norm=True, output_fmt="NLC", intermediates_only=True)
    found = encoder(normalize(images, *map(list, CLIP)))
    assert encoder.layers == [2, 6]
    assert [tuple(each.shape) for each in found] == [(2, 100, 64)] * 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert MemoryEncoder("test_vit", path, 160, CLIP).layers == [6]


@torch.no_grad()
def test_a_cnn_gives_its_feature_maps(tmp_path: Path) -> None:
    path, network = weights_of(CNN, tmp_path)
    encoder = MemoryEncoder(CNN, path, 96, CLIP)
    config = timm.get_pretrained_cfg(CNN)
    features = timm.create_model(CNN, features_only=True).eval()
    features.load_state_dict({name: network.state_dict()[name] for name in features.state_dict()})
    images = pictures(2, 96)
    expected = features(normalize(images, list(config.mean), list(config.std)))[2:]
    found = encoder(normalize(images, *map(list, CLIP)))
    assert (encoder.layers, encoder.widths) == ([3, 4, 5], [each.shape[1] for each in expected])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs.flatten(2).mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "size", "side", "patches"),
    [
        (VIT, 70, 64, 16),
        (VIT, 5, 16, 1),
        (DINO, 70, 70, 25),
        (CNN, 70, 70, 25),
        ("vit_small_patch16_dinov3", 70, 64, 16),
    ],
)
def test_the_grid_follows_the_image_size(backbone: str, size: int, side: int, patches: int) -> None:
    encoder = MemoryEncoder(backbone, False, size, CLIP, [4])
    (tokens,) = encoder(torch.zeros(1, 3, size, size))
    assert (encoder.side, tokens.shape[1], tokens.shape[2]) == (side, patches, encoder.widths[0])
    assert math.isqrt(patches) ** 2 == patches


def test_frozen_and_the_same_every_time() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = MemoryEncoder(VIT, False, 64, CLIP), MemoryEncoder(VIT, False, 64, CLIP)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != MemoryEncoder(VIT, False, 64, CLIP, [5]).fingerprint()
    assert first.fingerprint() != MemoryEncoder(VIT, False, 64, ((0.5,) * 3, (0.5,) * 3)).fingerprint()
    assert not any(each.requires_grad for each in first.parameters())
    assert not first.train().network.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"memory_backbone": "vit_smal_patch14_dinov2"}, ValueError, "Unknown .*such as vit_small_patch14_dinov2"),
        ({"memory_backbone": f"{DINO}.lvd142"}, ValueError, f"Unknown .*such as {DINO}.lvd142m"),
        ({"memory_backbone": VIT, "memory_layers": [7]}, ValueError, "`memory_layers` .7. .* from 1 to 6"),
        ({"memory_backbone": VIT, "memory_layers": []}, ValueError, "`memory_layers` .. .* from 1 to 6"),
        ({"memory_backbone": VIT, "memory_layers": "6"}, ValueError, "`memory_layers` must be a list"),
        ({"memory_backbone": VIT, "memory_pretrained": "nowhere.pt"}, FileNotFoundError, "nowhere.pt.* is no file"),
        ({"memory_backbone": VIT, "memory_pretrained": None}, ValueError, "`memory_pretrained` must be True"),
        ({"memory_backbone": 3}, ValueError, "`memory_backbone` must be the name"),
        ({"memory_pretrained": False}, ValueError, "need a `memory_backbone`"),
        ({"memory_layers": [1]}, ValueError, "need a `memory_backbone`"),
    ],
)
def test_wrong_arguments(make_model: Models, arguments: dict, error: type[Exception], message: str) -> None:
    """Before CLIP is read: there is no such file."""
    with pytest.raises(error, match=message):
        make_model(**arguments, pretrained="nowhere")


def test_a_network_without_patch_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models.VisionTransformer.forward_intermediates", lambda *_, **__: [torch.zeros(1, 64)])
    with pytest.raises(ValueError, match=r"makes no square of patch tokens of 64 x 64 pixels .its layers give .*1, 64"):
        MemoryEncoder(VIT, False, 64, CLIP)


@pytest.mark.parametrize("damage", ["missing", "shape", "other", "text"])
def test_a_file_that_does_not_fit(tmp_path: Path, damage: str) -> None:
    path, network = weights_of(VIT, tmp_path)
    state = dict(network.state_dict())
    if damage == "missing":
        del state["blocks.0.attn.qkv.weight"]
    if damage == "shape":
        state["blocks.0.attn.qkv.weight"] = torch.zeros(3, 4)
    if damage == "other":
        state = {"a": torch.zeros(3)}
    save_file(state, path)
    if damage == "text":
        path.write_text("hello")
    with pytest.raises(ValueError, match=r"do not fit the `memory_backbone`|holds no weights that can be read"):
        MemoryEncoder(VIT, str(path), 64, CLIP)


def test_a_classifier_in_the_file_does_not_matter(tmp_path: Path) -> None:
    path, network = weights_of(VIT, tmp_path)
    whole = MemoryEncoder(VIT, path, 64, CLIP)
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    save_file(state, path)
    assert MemoryEncoder(VIT, path, 64, CLIP).fingerprint() == whole.fingerprint()
    assert "state_dict" not in whole.network.pretrained_cfg


def test_no_network_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("requests.head", lambda *_, **__: None)
    with pytest.raises(
        ConnectionError, match=r"could not be downloaded .*HF_HUB_OFFLINE.*timm/test_vit.*memory_pretrained"
    ):
        MemoryEncoder("test_vit.r160_in1k", True, 64, CLIP)
    with pytest.raises(ValueError, match="timm has no weights for 'vit_base_patch16_xp_224'"):
        MemoryEncoder("vit_base_patch16_xp_224", True, 64, CLIP)
