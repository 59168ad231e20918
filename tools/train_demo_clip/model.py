# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The CLIP in training: its tokens at a smaller size, its captions without padding, and the losses."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from batches import twins
from open_clip import ClipLoss
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_aprilgan.maps import LOGIT_SCALE

DAMAGED = 0.1  # share of a patch from which on it counts as damaged
SCALE = torch.tensor(LOGIT_SCALE)
STAGES = [2, 4, 6, 8]
# Processors without it multiply numbers of bfloat16 forty times slower than those of float32.
FAST_BFLOAT16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
NAME_SHARE = 0.2  # of the loss among the captions of all things: there is little time to learn names

clip_loss = ClipLoss()


class Heads(nn.Module):
    """What each stage needs to be trained by itself, and is thrown away then.

    That is a linear map of its tokens into the joint space, which begins as the network's own last one, and scale and
    threshold of the similarity to reference tokens.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        width, embed_dim = visual.proj.shape
        self.maps = nn.ModuleList(nn.Linear(width, embed_dim) for _ in STAGES)
        with torch.no_grad():
            for each in self.maps:
                each.weight.copy_(visual.proj.T)
                each.bias.copy_(visual.ln_post.bias @ visual.proj)
        self.log_scale = nn.Parameter(torch.full((len(STAGES),), math.log(10)))
        self.threshold = nn.Parameter(torch.full((len(STAGES),), 0.7))


def encode_images(visual: Any, images: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Embeddings (B, E), last patch tokens (B, N, E) in the joint space, and the stages' raw ones (B, N, D).

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
    stages = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        with blocks_precision():  # not the ends: faint grain would be lost in its rounding
            x = x + attend(block.attn, block.ln_1(x))
            x = x + block.mlp(block.ln_2(x))
        if number in STAGES:
            stages.append(x[:, 1:])
    x = visual.ln_post(x) @ visual.proj
    return x[:, 0], x[:, 1:], stages


def blocks_precision() -> torch.autocast:
    """Bfloat16 where the processor is fast at it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=FAST_BFLOAT16)


def attend(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Self-attention (B, N, D), written out: on CPU, torch's fused kernel is two to four times as slow in bfloat16."""
    split = (len(x), -1, 3, attention.num_heads, attention.head_dim)
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = projected.view(split).permute(2, 0, 3, 1, 4)
    with torch.autocast("cpu", enabled=False):  # which would take the softmax in float32
        weights = (attention.head_dim**-0.5 * queries @ keys.mT).softmax(dim=-1)
        mixed = weights @ values
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def encode_captions(clip: Any, tokens: Tensor) -> Tensor:
    """Embeddings (B, E) of captions, as `clip.encode_text` makes them, without the padding after the longest one."""
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    return clip.ln_final(x)[torch.arange(len(x)), ends] @ clip.text_projection


def image_loss(embeddings: Tensor, text: Tensor) -> Tensor:
    """open_clip's contrastive loss of pictures and captions (2 n, E), and the same among a thing's two states."""
    embeddings = F.normalize(embeddings, dim=-1)
    lean = state_lean(embeddings[:, None], text)[:, 0]
    target = torch.arange(2).repeat_interleave(len(lean) // 2).float()
    return NAME_SHARE * clip_loss(embeddings, text, SCALE) + 2 * F.binary_cross_entropy_with_logits(lean, target)


def patch_loss(tokens: Tensor, shares: Tensor, text: Tensor) -> Tensor:
    """The same for patches: a damaged one and a sound one of each thing among all captions, all among its two states.

    Args:
        tokens: Patch tokens in the joint space (2 n, N, E), those of damaged pictures last.
        shares: How much of each patch is damaged, (n, N).
        text: Unit embeddings of the captions (2 n, E).
    """
    tokens = F.normalize(tokens, dim=-1)
    lean = state_lean(tokens, text)
    n = len(shares)
    hit = shares >= DAMAGED
    damaged = mean(F.softplus(-lean[n:])[hit])
    before = mean(F.softplus(lean[: twins(n)])[hit[: twins(n)]])  # the damaged places of twins, without the damage
    sound = mean(torch.cat([F.softplus(lean[:n]).flatten(), F.softplus(lean[n:])[shares == 0]]))
    things = torch.arange(n)
    pair = torch.cat([tokens[things, _draw(~hit)], tokens[n + things, _draw(hit)]])
    return damaged + 0.25 * before + 0.75 * sound + 0.25 * NAME_SHARE * clip_loss(pair, text, SCALE)


def memory_loss(heads: Heads, stages: list[Tensor], shares: Tensor) -> Tensor:
    """Sound tokens are like the nearest one at other places of the thing's normal picture, damaged ones are not.

    The mean over the stages. Next to the same place in the picture nothing is compared: for twins that is the same.
    """
    hit, sound = shares >= DAMAGED, shares == 0
    near = _near(math.isqrt(shares.shape[1]))
    losses = []
    for number, tokens in enumerate(stages):
        references, queries = F.normalize(tokens, dim=-1).chunk(2)
        with torch.no_grad():  # the search itself may be coarse, and needs no gradient
            with blocks_precision():
                alike = queries @ references.mT
            found = alike.masked_fill(near, -1).argmax(dim=-1, keepdim=True)
        nearest = (queries * references.take_along_dim(found, dim=1)).sum(dim=-1)
        logits = heads.log_scale[number].exp() * (heads.threshold[number] - nearest)
        losses.append(mean(F.softplus(-logits)[hit]) + mean(F.softplus(logits)[sound]))
    return torch.stack(losses).mean()


@cache
def _near(side: int) -> Tensor:
    """Which patches (N, N) of a square grid are the same or touch."""
    rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
    distances = [(each[:, None] - each).abs() for each in (rows, columns)]
    return torch.maximum(*distances) <= 1


def state_lean(tokens: Tensor, text: Tensor) -> Tensor:
    """Logits (2 n, N) of the damaged against the normal caption of each one's own thing: the loss for two captions."""
    normal, damaged = text.chunk(2)
    return SCALE * torch.einsum("bne,be->bn", tokens, (damaged - normal).repeat(2, 1))


def mean(values: Tensor) -> Tensor:
    """The mean of the values, 0 if there are none."""
    return values.sum() / max(1, values.numel())


def _draw(wanted: Tensor) -> Tensor:
    """One patch (n,) of each picture among the wanted ones (n, N), if there are any."""
    return torch.multinomial(wanted + 1e-9, 1)[:, 0]
