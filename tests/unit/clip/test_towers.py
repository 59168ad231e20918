# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Image towers: ViT, ModifiedResNet and those of timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP

from anomalib_aprilgan.clip.encoder import ClipEncoder
from conftest import TINY_CLIP
from small_clips import TIMM, timm_config, tiny


def test_vit_embedding_is_open_clips(clip_folder: Path) -> None:
    encoder, images = tiny(clip_folder, image_size=56), torch.randn(2, 3, 56, 56)
    clip = CLIP(**TINY_CLIP).eval()
    clip.load_state_dict(torch.load(clip_folder / "tiny.pt"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], clip.encode_image(images), atol=1e-5, rtol=1e-5)


def test_resnet_stages_are_the_outputs_of_its_layers(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=64)
    assert encoder.layers == [1, 2, 3, 4]
    assert encoder.widths == [32, 64, 128, 256]
    images, seen = torch.randn(2, 3, 64, 64), {}
    for number in (1, 4):
        layer = getattr(encoder.clip.visual, f"layer{number}")
        layer.register_forward_hook(lambda _m, _i, output, number=number: seen.__setitem__(number, output))
    embedding, stages = encoder(images)
    torch.testing.assert_close(embedding, encoder.clip.encode_image(images))
    assert [tuple(tokens.shape) for tokens in stages] == [(2, 256, 32), (2, 64, 64), (2, 16, 128), (2, 4, 256)]
    for stage, number in ((0, 1), (3, 4)):
        torch.testing.assert_close(stages[stage].mT.reshape(seen[number].shape), seen[number])


@pytest.mark.parametrize("name", TIMM)
def test_timm_towers(tmp_path: Path, name: str) -> None:
    size, stride, widths, _ = TIMM[name]
    encoder = ClipEncoder(str(timm_config(tmp_path, name)), None, image_size=size)
    embedding, stages = encoder(torch.randn(2, 3, size, size))
    assert embedding.shape == (2, 16)
    assert len(stages) == len(encoder.layers)
    assert [tokens.shape[-1] for tokens in stages] == encoder.widths
    assert widths is None or encoder.widths == widths
    assert stages[-1].shape[1] == (size // stride) ** 2
    assert all(tokens.isfinite().all() for tokens in stages)


def test_timm_embedding_is_open_clips(tmp_path: Path) -> None:
    encoder, images = (
        ClipEncoder(str(timm_config(tmp_path, "test_vit")), None, image_size=64),
        torch.randn(2, 3, 64, 64),
    )
    torch.testing.assert_close(encoder(images)[0], encoder.clip.encode_image(images))


@pytest.mark.parametrize(("backbone", "size"), [("tiny.json", 56), ("resnet.json", 64)])
def test_a_batch_equals_one_by_one(clip_folder: Path, backbone: str, size: int) -> None:
    encoder, images = ClipEncoder(str(clip_folder / backbone), None, image_size=size), torch.randn(3, 3, size, size)
    embedding, stages = encoder(images)
    alone = [encoder(image.unsqueeze(0)) for image in images]
    torch.testing.assert_close(embedding, torch.cat([each[0] for each in alone]), atol=1e-5, rtol=1e-4)
    for stage, tokens in enumerate(stages):
        torch.testing.assert_close(tokens, torch.cat([each[1][stage] for each in alone]), atol=1e-5, rtol=1e-4)


def test_image_size_that_is_no_multiple_of_the_patch_size(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`image_size` 75 is not a multiple of .* patch size 14; 70 would be"):
        tiny(clip_folder, image_size=75)
    with pytest.raises(ValueError, match="use a multiple of 32"):
        ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=63)
    with pytest.raises(ValueError, match="patch size 16"):
        ClipEncoder(str(timm_config(tmp_path, "test_vit")), None, image_size=70)
