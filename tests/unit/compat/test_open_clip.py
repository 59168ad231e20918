# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for open_clip: that it still needs them. What they do is tested in tests/unit/clip.

A test that fails here names a workaround that can go, or that only releases of open_clip need that we still support.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
LAYERS = TINY_CLIP["vision_cfg"]["layers"]


@pytest.mark.parametrize(
    ("workaround", "last"),
    [
        (compat.convert_state_dict, "2.24.0"),
        (compat.outputs_of_blocks, "2.31.0"),  # later ones have VisionTransformer.forward_intermediates
    ],
)
def test_a_supported_release_needs_the_workaround(workaround: Callable, last: str) -> None:
    (requirement,) = [each for each in _declared_requirements() if each.name.startswith("open")]
    assert requirement.specifier.contains(last), f"{workaround.__name__} can go"


def test_releases_have_what_the_workarounds_say() -> None:
    assert hasattr(factory, "convert_state_dict") == (Version("2.24.0") < OPEN_CLIP)
    assert hasattr(VisionTransformer, "forward_intermediates") == (Version("2.31.0") < OPEN_CLIP)
    assert not hasattr(VisionTransformer, "pool")  # a public one would replace pool_tokens


def test_create_model_takes_no_path_of_a_configuration(clip_folder: Path) -> None:
    with pytest.raises(RuntimeError, match="not found"):
        open_clip.create_model(str(clip_folder / "tiny.json"), force_image_size=70)


@pytest.mark.skipif(Version("2.26.1") < OPEN_CLIP, reason="later releases treat OpenAI's weights as any others")
def test_openais_weights_come_without_a_choice_of_size_and_activation() -> None:
    assert not {"image_size", "quick_gelu"} & inspect.signature(open_clip.load_openai_model).parameters.keys()


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of torch's fused attention."""
    calls, fused = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(0) or fused(*args, **kwargs)
    )
    return calls


@pytest.mark.parametrize("grad", [False, True])
def test_attention_is_fused(fused_calls: list[int], grad: bool) -> None:
    visual = compat.build_clip(TINY_CLIP, 70, quick_gelu=False).visual.eval().requires_grad_(False)
    compat.use_fused_attention(visual)
    with torch.set_grad_enabled(grad):
        visual(torch.randn(1, 3, 70, 70))
    assert len(fused_calls) == LAYERS


@pytest.mark.skipif(Version("2.24.0") >= OPEN_CLIP, reason="blocks take (N, B, D)")
def test_attention_is_not_fused_without_us(fused_calls: list[int]) -> None:
    visual = compat.build_clip(TINY_CLIP, 70, quick_gelu=False).visual.eval().requires_grad_(False)
    with torch.no_grad():
        visual(torch.randn(1, 3, 70, 70))
    assert not fused_calls


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
