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
from beginning import initialise, watch_for_damage
from model import Heads, encode_captions, encode_images, image_loss, memory_loss, patch_loss, state_lean
from numpy.typing import NDArray
from open_clip.model import CLIP
from pictures import make_pool
from storage import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from words import STEPS, learn_words

from anomalib_aprilgan.clip.configuration import DEMO_CONFIG, IMAGE_MEAN, IMAGE_STD

LEARNING_RATE, WARMUP = 1.5e-3, 0.01  # the warm-up as a share of all
HEAD_SHARE, MEMORY_SHARE = 0.5, 4.0  # of each stage's own loss, and of the one of references
LOG_EVERY, SAVE_EVERY = 200, 1000  # steps
PHASES = [
    Phase(steps=19000, pairs=4, side=112),
    Phase(steps=2400, pairs=4, side=168),
    Phase(steps=1700, pairs=4, side=224),
]


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of steps and drawings, for trials")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    phases = [Phase(max(1, round(p.steps * arguments.scale)), p.pairs, p.side) for p in PHASES]
    train(phases, arguments.seed, arguments.output, min(1.0, arguments.scale))


def train(phases: list[Phase], seed: int, output: Path, share: float) -> None:
    """Train through all phases, with a share of drawings and captions; the file is written anew every few minutes."""
    config = json.loads(DEMO_CONFIG.read_text())
    clip = CLIP(**config)
    if not getattr(clip.transformer, "batch_first", False):
        msg = "This script needs an open_clip whose blocks take (B, N, D): pip install 'open_clip_torch>=3,<4'."
        raise SystemExit(msg)
    initialise(clip)
    pool = make_pool(seed, share)
    seen = learn_words(clip, sorted({name for names, _ in pool for name in names}), seed, math.ceil(STEPS * share))
    watch_for_damage(clip)
    heads = Heads(clip.visual)
    batches = Batches(pool, phases, config["vision_cfg"]["patch_size"], seed)
    rates = schedule(batches.sizes)
    optimizers, log = make_optimizers(clip.visual, heads), Log()
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    for step, (batch, rate) in enumerate(zip(loader, rates, strict=True), start=1):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
        log.add(step, learn(clip, heads, optimizers, batch))
        if step % SAVE_EVERY == 0 or step == len(batches):
            save(clip.state_dict(), seen, output)


def learn(
    clip: CLIP, heads: Heads, optimizers: list[torch.optim.Optimizer], batch: tuple[Tensor, Tensor, Tensor]
) -> NDArray[np.float64]:
    """One step; return the figures of the log."""
    pictures, shares, tokens = batch
    room = math.isqrt(len(clip.visual.positional_embedding) - 1) - math.isqrt(shares.shape[1])
    row, column = torch.randint(room + 1, (2,)).tolist()
    loss, figures = losses(clip, heads, pictures, shares, tokens, (row, column))
    clip.zero_grad()
    heads.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*clip.visual.parameters(), *heads.parameters()], 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return figures


class Log:
    """Prints means of the steps' figures."""

    def __init__(self) -> None:
        self.sums, self.begin = np.zeros(8), time.time()

    def add(self, step: int, figures: NDArray[np.float64]) -> None:
        """Count a step's figures: losses of pictures, references, last tokens and stages, share of right states."""
        self.sums += figures
        if step % LOG_EVERY:
            return
        minutes, cpu = (time.time() - self.begin) / 60, time.process_time() / 60
        image, memory, last, *stages, right = self.sums / LOG_EVERY
        print(
            f"step {step:5} | {minutes:5.1f} min, {cpu:5.1f} CPU min | loss image {image:.3f} references {memory:.3f} "
            f"last {last:.3f} stages {' '.join(f'{each:.3f}' for each in stages)} | state right {right:.3f}",
            flush=True,
        )
        self.sums[:] = 0


def losses(
    clip: CLIP, heads: Heads, pictures: Tensor, shares: Tensor, tokens: Tensor, corner: tuple[int, int]
) -> tuple[Tensor, NDArray[np.float64]]:
    """The loss, and for the log its parts and the share of pictures nearer to the caption of their own state."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGE_MEAN, IMAGE_STD))
    embeddings, last, stages = encode_images(clip.visual, (pictures / 255 - mean) / std, corner)
    with torch.no_grad():
        text = F.normalize(encode_captions(clip, tokens), dim=-1)
        lean = state_lean(F.normalize(embeddings, dim=-1)[:, None], text)[:, 0]
        right = torch.cat([lean[: len(shares)] < 0, lean[len(shares) :] > 0]).float().mean()
    image, memory = image_loss(embeddings, text), memory_loss(heads, stages, shares)
    own = [patch_loss(head(tokens), shares, text) for head, tokens in zip(heads.maps, stages, strict=True)]
    patches = patch_loss(last, shares, text)
    loss = image + MEMORY_SHARE * memory + patches + HEAD_SHARE * torch.stack(own).sum()
    return loss, np.array([each.item() for each in (image, memory, patches, *own, right)])


def make_optimizers(visual: nn.Module, heads: Heads) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else of the image tower and for its heads."""
    blocks = [p for name, p in visual.named_parameters() if "resblocks" in name and p.ndim == 2]
    rest = [p for name, p in visual.named_parameters() if not ("resblocks" in name and p.ndim == 2)]
    return [
        torch.optim.Muon(blocks, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*rest, *heads.parameters()], lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(sizes: list[Phase]) -> NDArray[np.float64]:
    """Share of the learning rate in each step: a warm-up, then a line to zero, by the pixels that were seen."""
    pixels = np.cumsum([phase.pairs * phase.side**2 for phase in sizes])
    progress = pixels / pixels[-1]
    return np.minimum(progress / WARMUP, 1 - progress + progress[0])


if __name__ == "__main__":
    main()
