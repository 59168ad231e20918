# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Train the small CLIP of the demo on generated pictures and captions, and write it as the package's file.

    python tools/train_demo_clip/train.py --output demo_clip.safetensors

On CPU, memory that is handed back and asked for again in each step costs more than the arithmetic: set
MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=1000000000.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from batches import Batches, Phase
from model import Heads, encode_captions, encode_images, image_loss, patch_loss
from numpy.typing import NDArray
from open_clip.model import CLIP
from pictures import make_pool
from storage import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from words import learn_words

from anomalib_aprilgan.encoder import DEMO_CONFIG, IMAGE_MEAN, IMAGE_STD

LEARNING_RATE, WARMUP, WEIGHT_DECAY = 1.5e-3, 80, 0.05
HEAD_SHARE = 0.5  # of each stage's own loss
STAGES = [2, 4, 6, 8]
LOG_EVERY, SAVE_EVERY = 50, 200  # steps
PHASES = [
    Phase(steps=2200, pairs=8, side=80),
    Phase(steps=700, pairs=8, side=112),
    Phase(steps=150, pairs=4, side=224),
]


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, for trials")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    phases = [Phase(max(1, round(p.steps * arguments.scale)), p.pairs, p.side) for p in PHASES]
    train(phases, arguments.seed, arguments.output)


def train(phases: list[Phase], seed: int, output: Path) -> None:
    """Train through all phases; the file is written anew every few minutes."""
    config = json.loads(DEMO_CONFIG.read_text())
    clip = CLIP(**config)
    initialise(clip)
    pool = make_pool(seed)
    seen = learn_words(clip, sorted({name for names, _ in pool for name in names}), seed)
    heads = Heads(STAGES, config["vision_cfg"]["width"], config["embed_dim"])
    batches = Batches(pool, phases, config["vision_cfg"]["patch_size"], seed)
    optimizer, log = make_optimizer(clip, heads), Log()
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    for step, batch in enumerate(loader, start=1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step - 1, len(batches))
        figures = learn(clip, heads, optimizer, batch)
        log.add(step, figures, clip.logit_scale.exp().item())
        if step % SAVE_EVERY == 0 or step == len(batches):
            save(clip.state_dict(), seen, output)


def learn(
    clip: CLIP, heads: Heads, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor]
) -> NDArray[np.float64]:
    """One step; return the figures of the log."""
    pictures, shares, tokens = batch
    room = math.isqrt(len(clip.visual.positional_embedding) - 1) - math.isqrt(shares.shape[1])
    row, column = torch.randint(room + 1, (2,)).tolist()
    loss, figures = losses(clip, heads, pictures, shares, tokens, (row, column))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*clip.visual.parameters(), *heads.parameters()], 1.0)
    optimizer.step()
    with torch.no_grad():
        clip.logit_scale.clamp_(0, math.log(100))
    return figures


class Log:
    """Prints the means of 50 steps' figures."""

    def __init__(self) -> None:
        self.sums, self.begin = np.zeros(7), time.time()

    def add(self, step: int, figures: NDArray[np.float64], scale: float) -> None:
        """Count the figures of a step: losses of pictures, last tokens and stages, share of right states."""
        self.sums += figures
        if step % LOG_EVERY:
            return
        minutes, cpu = (time.time() - self.begin) / 60, time.process_time() / 60
        image, last, *stages, right = self.sums / LOG_EVERY
        print(
            f"step {step:5} | {minutes:5.1f} min, {cpu:5.1f} CPU min | loss image {image:.3f} last {last:.3f} "
            f"stages {' '.join(f'{each:.3f}' for each in stages)} | state right {right:.3f} | scale {scale:.1f}",
            flush=True,
        )
        self.sums[:] = 0


def losses(
    clip: CLIP, heads: Heads, pictures: Tensor, shares: Tensor, tokens: Tensor, corner: tuple[int, int]
) -> tuple[Tensor, NDArray[np.float64]]:
    """The loss, and for the log its parts and the share of pictures nearer to the caption of their own state."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGE_MEAN, IMAGE_STD))
    embeddings, maps = encode_images(clip.visual, heads, (pictures / 255 - mean) / std, corner)
    with torch.no_grad():
        text = F.normalize(encode_captions(clip, tokens), dim=-1)
    scale = clip.logit_scale.exp()
    image = image_loss(embeddings, text, scale)
    patches = [patch_loss(each, shares, text, scale) for each in maps]
    loss = image + patches[0] + HEAD_SHARE * torch.stack(patches[1:]).sum()
    n = len(shares)
    direction = (text[n:] - text[:n]).repeat(2, 1)
    lean = (embeddings * direction).sum(-1).detach()
    right = torch.cat([lean[:n] < 0, lean[n:] > 0]).float().mean()
    return loss, np.array([each.item() for each in (image, *patches, right)])


def initialise(clip: CLIP) -> None:
    """Begin with cosine waves as patch filters and positions: a small network has no time to find them.

    The mean of a patch is damped, or else it would drown the rest in the normalisation that follows.
    """
    weight = clip.visual.conv1.weight
    side = weight.shape[-1]
    t = (torch.arange(side) + 0.5) * math.pi / side
    waves = F.normalize(torch.cos(torch.arange(side)[:, None] * t), dim=1)
    gray = torch.einsum("ax,by->abxy", waves, waves).flatten(0, 1)
    gray = gray[torch.arange(side)[:, None].add(torch.arange(side)).flatten().argsort(stable=True)]
    gray[0] *= 0.1
    colours = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]]), dim=1)
    counts = [side * side, (len(weight) - side * side) // 2, (len(weight) - side * side) // 2]
    pairs = zip(counts, colours, strict=True)
    filters = torch.cat([gray[:count, None] * colour[:, None, None] for count, colour in pairs])
    with torch.no_grad():
        weight.copy_(filters)
        clip.visual.positional_embedding.copy_(0.15 * _positions(*clip.visual.positional_embedding.shape))
        for block in clip.visual.transformer.resblocks:
            _look_near(block.attn)


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


def make_optimizer(clip: CLIP, heads: Heads) -> torch.optim.Optimizer:
    """AdamW for all but the text tower; biases, norms and embeddings do not decay."""
    parameters = [*clip.visual.named_parameters(), *heads.named_parameters(), ("logit_scale", clip.logit_scale)]
    decays = [p for name, p in parameters if p.ndim >= 2 and "embedding" not in name]
    stays = [p for name, p in parameters if not (p.ndim >= 2 and "embedding" not in name)]
    groups = [{"params": decays, "weight_decay": WEIGHT_DECAY}, {"params": stays, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a warm-up, then half a cosine."""
    warmup = min(WARMUP, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


if __name__ == "__main__":
    main()
