# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for open_clip: where its releases differ, and what none of them does. Seen in the releases named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from open_clip import factory, model
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn


def build_clip(config: dict[str, Any], image_size: int, quick_gelu: bool) -> nn.Module:
    """Return a CLIP with random weights, which depend on nothing but the configuration.

    open_clip.create_model cannot do it: for OpenAI's weights it ignores the image size and always takes QuickGELU (up
    to 2.26.1, not in 2.30.0), and it does not take the path of a configuration (3.3.0).

    Args:
        config: open_clip model configuration.
        image_size: Height and width of the images in pixels.
        quick_gelu: Use QuickGELU in both towers, also where the configuration does not ask for it.
    """
    config = dict(config)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    config["quick_gelu"] = quick_gelu or config.get("quick_gelu", False)
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": image_size}
    network = model.CustomTextCLIP if custom_text else model.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return network(**config)


def use_fused_attention(visual: nn.Module) -> None:
    """Have the blocks of a ViT take tokens as (N, B, D), as up to 2.24.0.

    From 2.26.1 on they take (B, N, D) (https://github.com/mlfoundations/open_clip/pull/906). Without gradients and
    autocast, torch's MultiheadAttention then takes a "fast path" that holds all N x N attention weights and needs 1.4
    times as long at N = 1370 as its fused attention (https://github.com/pytorch/pytorch/issues/166166).
    """
    if isinstance(visual, VisionTransformer):
        attentions = [block.attn for block in visual.transformer.resblocks]
        if all(isinstance(attention, nn.MultiheadAttention) for attention in attentions):
            for layer in (visual.transformer, *attentions):
                layer.batch_first = False


def outputs_of_blocks(transformer: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Yield the tokens (B, N, D) after each block of a ViT; ``tokens`` (B, N, D) go into the first one.

    The blocks take (N, B, D) in 2.24.0, and (B, N, D) from 2.26.1 on, where an attribute tells which; a method that
    returns what we need (``forward_intermediates``) came with 2.32.0.
    """
    batch_first = getattr(transformer, "batch_first", False)
    tokens = tokens if batch_first else tokens.transpose(0, 1)
    for block in transformer.resblocks:
        tokens = block(tokens)
        yield tokens if batch_first else tokens.transpose(0, 1)


def pool_tokens(visual: Any, tokens: Tensor) -> Tensor:
    """Return the embedding (B, E) of a ViT's last tokens (B, 1 + N, D), pooled as its configuration asks for.

    open_clip pools inside of ``forward`` in 2.24.0, and in a private method from 2.32.0 on.
    """
    if visual.attn_pool is not None:
        pooled, _ = visual._global_pool(visual.ln_post(visual.attn_pool(tokens)))  # noqa: SLF001
    elif visual.final_ln_after_pool:
        pooled = visual.ln_post(visual._global_pool(tokens)[0])  # noqa: SLF001
    else:
        pooled, _ = visual._global_pool(visual.ln_post(tokens))  # noqa: SLF001
    return pooled if visual.proj is None else pooled @ visual.proj


def convert_state_dict(state: dict[str, Tensor], clip: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of another project (Apple's MobileCLIP) under open_clip's names; 2.24.0 cannot do it."""
    return factory.convert_state_dict(clip, state) if hasattr(factory, "convert_state_dict") else state


def resize_attention_pool(state: dict[str, Tensor], visual: Any) -> None:
    """Resize the positions of a ModifiedResNet's attention pool, in place: open_clip resizes a ViT's only (3.3.0).

    Args:
        state: State dict of the weights to be loaded.
        visual: Image tower that they are for.
    """
    key = "visual.attnpool.positional_embedding"
    if isinstance(visual, ModifiedResNet) and key in state:
        side = math.isqrt(len(visual.attnpool.positional_embedding) - 1)
        positions = {"visual.positional_embedding": state[key]}
        model.resize_pos_embed(positions, SimpleNamespace(visual=SimpleNamespace(grid_size=side)))
        state[key] = positions["visual.positional_embedding"]


def resize_timm_trunk(visual: nn.Module, image_size: int) -> None:
    """Bring a timm trunk with its weights to ``image_size`` pixels: open_clip builds it at its native size (3.3.0).

    See https://github.com/mlfoundations/open_clip/issues/783. From 3.0.0 on ``create_model`` does the same.
    """
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "set_input_size"):
        visual.trunk.set_input_size(img_size=(image_size, image_size))


def count_tokens(tokenizer: Any, prompt: str) -> int | None:
    """Return the number of tokens of a prompt, start and end included, or None where the tokenizer cannot tell.

    open_clip's tokenizers cut off in silence what is longer than the context (3.3.0).
    """
    return len(tokenizer.encode(prompt)) + 2 if hasattr(tokenizer, "encode") else None
