# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The CLIP in training: its tokens at a smaller size, its captions without padding, and the contrastive losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from open_clip import ClipLoss
from torch import Tensor, nn
from torch.nn import functional as F

DAMAGED = 0.1  # share of a patch from which on it counts as damaged

clip_loss = ClipLoss()


class Heads(nn.Module):
    """Linear maps of the stages' raw tokens into the joint space; they help to train and are thrown away then."""

    def __init__(self, stages: list[int], width: int, embed_dim: int) -> None:
        super().__init__()
        self.stages = stages
        self.maps = nn.ModuleList(nn.Linear(width, embed_dim) for _ in stages)


def encode_images(visual: Any, heads: Heads, images: Tensor, corner: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
    """Embeddings (B, E), and patch tokens (B, N, E) in the joint space: the last ones, then those of each head.

    Images smaller than the network's own size are seen as a part of such an image that begins at patch `corner`.
    """
    patches = visual.conv1(images)
    rows, columns = patches.shape[-2:]
    positions = visual.positional_embedding
    grid = math.isqrt(len(positions) - 1)
    window = positions[1:].view(grid, grid, -1)[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]
    x = patches.flatten(2).transpose(1, 2) + window.flatten(0, 1)
    x = torch.cat([(visual.class_embedding + positions[0]).expand(len(x), 1, -1), x], dim=1)
    x = visual.ln_pre(x)
    tapped = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        if number in heads.stages:
            tapped.append(heads.maps[heads.stages.index(number)](x[:, 1:]))
    x = visual.ln_post(x) @ visual.proj
    return x[:, 0], [x[:, 1:], *tapped]


def encode_captions(clip: Any, tokens: Tensor) -> Tensor:
    """Embeddings (B, E) of captions, as `clip.encode_text` makes them, without the padding after the longest one."""
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    return clip.ln_final(x)[torch.arange(len(x)), ends] @ clip.text_projection


def image_loss(embeddings: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """open_clip's contrastive loss of pictures and captions (2 n, E), and the same among a thing's two states."""
    embeddings = F.normalize(embeddings, dim=-1)
    lean = state_lean(embeddings[:, None], text, scale)[:, 0]
    target = torch.arange(2).repeat_interleave(len(lean) // 2).float()
    return clip_loss(embeddings, text, scale) + F.binary_cross_entropy_with_logits(lean, target)


def patch_loss(tokens: Tensor, shares: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The same for patches: a damaged one and a sound one of each thing among all captions, all among its two states.

    Args:
        tokens: Patch tokens in the joint space (2 n, N, E), those of damaged pictures last.
        shares: How much of each patch is damaged, (n, N).
        text: Unit embeddings of the captions (2 n, E).
        scale: Factor of the cosines.
    """
    tokens = F.normalize(tokens, dim=-1)
    lean = state_lean(tokens, text, scale)
    n = len(shares)
    hit = (shares >= DAMAGED).float()
    damaged = (F.softplus(-lean[n:]) * hit).sum() / hit.sum().clamp(min=1)
    twin = (F.softplus(lean[:n]) * hit).sum() / hit.sum().clamp(min=1)
    sound = torch.cat([F.softplus(lean[:n])[hit == 0], F.softplus(lean[n:])[shares == 0]]).mean()
    things = torch.arange(n)
    pair = torch.cat([tokens[things, _draw(1 - hit)], tokens[n + things, _draw(hit)]])
    return damaged + 0.25 * twin + 0.75 * sound + 0.25 * clip_loss(pair, text, scale)


def state_lean(tokens: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Logits (2 n, N) of the damaged against the normal caption of each one's own thing: the loss for two captions."""
    normal, damaged = text.chunk(2)
    return scale * torch.einsum("bne,be->bn", tokens, (damaged - normal).repeat(2, 1))


def _draw(wanted: Tensor) -> Tensor:
    """One patch (n,) of each picture among the wanted ones (n, N), if there are any."""
    return torch.multinomial(wanted + 1e-9, 1)[:, 0]
