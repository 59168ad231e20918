# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Weights to begin with: what a small network has no time to find by itself."""

from __future__ import annotations

import math
from typing import Any

import open_clip
import torch
from model import SCALE, encode_captions
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_aprilgan.prompts import PromptEnsemble

CONE = 3.0
N_GRAY, N_COLOUR = 64, 16  # patch filters in gray, and in each of two colours; the other channels are for energies
BANDS = [(0.5, 1.5), (1.5, 2.9), (2.9, 4.5), (4.5, 6.5), (6.5, 10)]  # of the filters' frequencies


def initialise(clip: CLIP) -> None:
    """Begin with cosine waves as patch filters, their energies, and positions as waves.

    All embeddings, of pictures and texts alike, begin in one narrow cone, as those of large CLIPs lie: the method
    multiplies cosines by 100, and if states were far apart its probabilities would all be 0 or 1.
    """
    visual = clip.visual
    with torch.no_grad():
        filters, frequencies = _waves(visual.conv1.kernel_size[0])
        visual.conv1.weight.zero_()
        visual.conv1.weight[: len(filters)] = filters
        _measure_energies(visual.transformer.resblocks[0].mlp, frequencies)
        visual.positional_embedding.copy_(0.05 * _positions(*visual.positional_embedding.shape))
        for block in visual.transformer.resblocks:
            _look_near(block.attn)
        clip.text_projection.copy_(visual.proj)
        for norm in (clip.ln_final, visual.ln_post):
            norm.bias.fill_(CONE)
        clip.logit_scale.copy_(SCALE.log())


def watch_for_damage(clip: Any) -> None:
    """In the last two blocks, have one head look at the patches that lean most to abnormal captions.

    So the class token, whose embedding is the image's, learns early of damage in one of many patches.
    """
    ensemble, tokenize = PromptEnsemble.from_yaml(), open_clip.tokenizer.SimpleTokenizer()
    with torch.no_grad():
        normal, abnormal = (
            F.normalize(encode_captions(clip, tokenize([state.replace("{}", "object") for state in states])), dim=-1)
            for states in (ensemble.normal_states, ensemble.abnormal_states)
        )
        direction = F.normalize(clip.visual.proj @ (abnormal.mean(0) - normal.mean(0)), dim=0)
        for block in clip.visual.transformer.resblocks[-2:]:
            width, size = block.attn.embed_dim, block.attn.head_dim
            queries, keys, values = block.attn.in_proj_weight.split(width)
            queries[-size:], keys[-size:] = 0, 0
            block.attn.in_proj_bias[width - size] = 6.0
            keys[-size], values[-size] = direction, direction
            block.attn.out_proj.weight[:, -size] = 0.5 * direction


def _waves(side: int) -> tuple[Tensor, Tensor]:
    """Filters (C, 3, side, side), cosine waves of rising frequency in gray and two colours, and (C, 3): which they are.

    That is their frequencies down and across, and the number of the colour. The mean of a patch is damped, or else it
    would drown the rest in the normalisation that follows.
    """
    t = (torch.arange(side) + 0.5) * math.pi / side
    waves = F.normalize(torch.cos(torch.arange(side)[:, None] * t), dim=1)
    gray = torch.einsum("ax,by->abxy", waves, waves).flatten(0, 1)
    frequencies = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    order = frequencies.sum(1).argsort(stable=True)
    gray, frequencies = gray[order], frequencies[order]
    gray[0] *= 0.1
    colours = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]]), dim=1)
    counts = [N_GRAY, N_COLOUR, N_COLOUR]
    filters = [gray[:count, None] * colour[:, None, None] for count, colour in zip(counts, colours, strict=True)]
    which = [F.pad(frequencies[:count], (0, 1), value=number) for number, count in enumerate(counts)]
    return torch.cat(filters), torch.cat(which)


def _measure_energies(mlp: nn.Sequential, which: Tensor) -> None:
    """Have the first block write absolute values of the waves, summed in bands, into the channels that are free."""
    n = len(which)
    groups = _groups(which)[: mlp.c_proj.out_features - n]
    rows = slice(n, n + len(groups))
    mlp.c_fc.weight[: 2 * n] = 0
    mlp.c_fc.weight[: 2 * n, :n] = 2 * torch.cat([torch.eye(n), -torch.eye(n)])
    mlp.c_fc.bias[: 2 * n] = 0
    mlp.c_proj.weight[:, : 2 * n] = 0
    mlp.c_proj.weight[rows, : 2 * n] = 0.5 * F.normalize(groups, dim=1).repeat(1, 2)
    mlp.c_proj.bias.zero_()


def _groups(which: Tensor) -> Tensor:
    """Which waves belong together, (G, C): those of one band and one of four directions, in colours of two and two."""
    down, across, colour = which.float().T
    radius, angle = torch.hypot(down, across), torch.atan2(down, across) / (math.pi / 2)
    groups = []
    for number, bands, directions in ((0, BANDS, 4), (1, [BANDS[0], (1.5, 10)], 2), (2, [BANDS[0], (1.5, 10)], 2)):
        sector = (angle * directions).floor().clamp(max=directions - 1)
        groups += [
            (colour == number) & (low <= radius) & (radius < high) & (sector == direction)
            for low, high in bands
            for direction in range(directions)
        ]
    return torch.stack([group for group in groups if group.any()]).float()


def _look_near(attention: nn.MultiheadAttention) -> None:
    """Begin with attention of half the heads to alike and near patches (arXiv:2305.09828, section 3)."""
    width, heads = attention.embed_dim, attention.num_heads
    size = width // heads
    query, key = attention.in_proj_weight[:width], attention.in_proj_weight[width : 2 * width]
    for head in range(heads // 2):
        rows = slice(head * size, (head + 1) * size)
        u, s, v = torch.linalg.svd(0.7 * torch.randn(width, width) / math.sqrt(width) + 0.7 * torch.eye(width))
        query[rows] = (u[:, :size] * s[:size].sqrt()).T
        key[rows] = s[:size, None].sqrt() * v[:size]
    u, s, v = torch.linalg.svd(0.4 * torch.randn(width, width) / math.sqrt(width) - 0.4 * torch.eye(width))
    attention.in_proj_weight[2 * width :] = s[:, None].sqrt() * v
    attention.out_proj.weight.copy_(u * s.sqrt())


def _positions(n: int, width: int) -> Tensor:
    """Sines and cosines (n, width) of row and column, several per axis; zero for the class token."""
    grid = math.isqrt(n - 1)
    periods = torch.logspace(math.log10(4), math.log10(4 * grid), width // 4)
    phases = 2 * math.pi * torch.arange(grid)[:, None] / periods
    axis = torch.cat([phases.sin(), phases.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    return torch.cat([torch.zeros(1, width), torch.cat([rows, columns], dim=-1).flatten(0, 1)])
