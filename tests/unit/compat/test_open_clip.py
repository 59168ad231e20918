# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for open_clip: that it still needs them. What they do is tested in tests/unit/clip.

A test that fails here tells of a workaround that can go.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import factory, model
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from packaging.version import Version
from torch.nn import functional

from anomalib_aprilgan.compat import open_clip as compat
from anomalib_aprilgan.compat.versions import _declared_requirements
from conftest import TINY_CLIP, TINY_RESNET

OPEN_CLIP = Version(version("open_clip_torch"))


@pytest.mark.parametrize(
    ("owner", "name", "last"),
    [
        (factory, "convert_state_dict", "2.24.0"),  # for convert_state_dict
        (VisionTransformer, "forward_intermediates", "2.31.0"),  # for outputs_of_blocks and pool_tokens
    ],
)
def test_what_replaces_a_workaround_is_not_in_all_releases(owner: object, name: str, last: str) -> None:
    assert hasattr(owner, name) == (Version(last) < OPEN_CLIP)
    (supported,) = [each.specifier for each in _declared_requirements() if each.name.startswith("open")]
    assert supported.contains(last)


def test_create_model_takes_no_path_of_a_configuration(clip_folder: Path) -> None:
    with pytest.raises(RuntimeError, match="not found"):
        open_clip.create_model(str(clip_folder / "tiny.json"), force_image_size=70)


@pytest.mark.skipif(Version("2.26.1") < OPEN_CLIP, reason="later releases treat OpenAI's weights as any others")
def test_openais_weights_come_without_a_choice_of_size_and_activation() -> None:
    assert not {"image_size", "quick_gelu"} & inspect.signature(open_clip.load_openai_model).parameters.keys()


@pytest.mark.parametrize(("ours", "grad"), [(True, False), (True, True), (False, False)])
def test_attention_is_fused_only_with_the_workaround(monkeypatch: pytest.MonkeyPatch, ours: bool, grad: bool) -> None:
    calls, fused = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(0) or fused(*args, **kwargs)
    )
    visual = compat.build_clip(TINY_CLIP, 70, quick_gelu=False).visual.eval().requires_grad_(False)
    if ours:
        compat.use_fused_attention(visual)
    with torch.set_grad_enabled(grad):
        visual(torch.randn(1, 3, 70, 70))
    assert len(calls) == (TINY_CLIP["vision_cfg"]["layers"] if ours or Version("2.24.0") >= OPEN_CLIP else 0)


def test_open_clip_does_not_resize_attention_pools() -> None:
    key, clip = "visual.attnpool.positional_embedding", compat.build_clip(TINY_RESNET, 96, quick_gelu=False)
    state = model.CLIP(**TINY_RESNET).state_dict()
    model.resize_pos_embed(state, clip)
    assert state[key].shape != clip.visual.attnpool.positional_embedding.shape
    compat.resize_attention_pool(state, clip.visual)
    assert state[key].shape == clip.visual.attnpool.positional_embedding.shape


def test_open_clip_builds_timm_trunks_at_their_native_size() -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    visual = compat.build_clip({**TINY_CLIP, "vision_cfg": vision}, 64, quick_gelu=False).visual
    assert visual.trunk.patch_embed.img_size == (160, 160)
    compat.resize_timm_trunk(visual, 64)
    assert visual.trunk.patch_embed.img_size == (64, 64)


def test_open_clip_cuts_long_prompts_off_in_silence() -> None:
    tokenizer, prompt = SimpleTokenizer(), "photo " * 100
    assert tokenizer([prompt]).shape == (1, 77)
    assert compat.count_tokens(tokenizer, prompt) == 102
