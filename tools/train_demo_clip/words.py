# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The text tower: it learns from captions alone, and the image tower's heads are fitted to it.

    python tools/train_demo_clip/words.py --output text.safetensors

The package's text tower is of the demo's first CLIP, a ViT, and was kept: ``learn_words`` trained it, with seed 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from captions import ARBITRARY, ENSEMBLE, GENERIC, caption
from open_clip import ClipLoss
from safetensors.torch import load_file
from storage import save
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_aprilgan.clip.configuration import DEMO, clip_config
from anomalib_aprilgan.compat.open_clip import build_clip
from anomalib_aprilgan.maps import LOGIT_SCALE
from anomalib_aprilgan.prompts import text_features

STEPS, WORDS_PER_STEP, LEARNING_RATE = 250, 24, 1e-3
CONE = 3.0  # all embeddings begin in one narrow cone, as those of large CLIPs lie
EVERY = 20  # of the ensemble's prompts


def learn_words(clip: Any, names: list[str], seed: int) -> list[int]:
    """Train the text tower to know word and state of a caption in any wording; return the tokens that were used.

    The loss is open_clip's: two captions of the same word and state belong together, all others of the batch do not.
    """
    rng = np.random.default_rng([seed, 2])
    words = sorted({*names, *GENERIC, *ARBITRARY})
    tokenize = open_clip.tokenizer.SimpleTokenizer()
    parameters = [p for name, p in clip.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    seen: set[int] = set()
    for step in range(STEPS):
        chosen = rng.choice(words, WORDS_PER_STEP, replace=False)
        wordings = [[caption(word, state, rng) for state in (False, True) for word in chosen] for _ in range(2)]
        tokens = tokenize(wordings[0] + wordings[1])
        seen.update(tokens.unique().tolist())
        one, other = F.normalize(encode_captions(clip, tokens), dim=-1).chunk(2)
        loss = ClipLoss()(one, other, torch.tensor(LOGIT_SCALE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            alike = (one[:WORDS_PER_STEP] * one[WORDS_PER_STEP:]).sum(-1).mean()
            print(
                f"words, step {step + 1:4} | loss {loss.item():.3f} | cosine of the states {alike.item():.3f}",
                flush=True,
            )
    return sorted(seen)


def encode_captions(clip: Any, tokens: Tensor) -> Tensor:
    """Embeddings (B, E) of captions, as `clip.encode_text` makes them, without the padding after the longest one."""
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    batch_first = getattr(clip.transformer, "batch_first", False)  # open_clip 2.24.0 has no such attribute
    x = x if batch_first else x.transpose(0, 1)
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    x = x if batch_first else x.transpose(0, 1)
    return clip.ln_final(x)[torch.arange(len(x)), ends] @ clip.text_projection


@torch.no_grad()
def load_text_tower(clip: Any, path: Path) -> list[int]:
    """Load the text tower of a file that ``save`` wrote; return the tokens that it knows."""
    stored = {name: tensor.float() for name, tensor in load_file(path).items() if not name.startswith("visual.")}
    tokens = stored.pop("token_embedding.ids").long()
    embedding = torch.zeros_like(clip.token_embedding.weight)
    embedding[tokens] = stored.pop("token_embedding.rows")
    missing, unexpected = clip.load_state_dict({**stored, "token_embedding.weight": embedding}, strict=False)
    if unexpected or any(not name.startswith("visual.") for name in missing):
        msg = f"{path} holds no text tower of the demo."
        raise SystemExit(msg)
    return tokens.tolist()


@torch.no_grad()
def turn_joint_space(clip: Any, words: Sequence[str]) -> float:
    """Turn the joint space until its axes have a meaning, and return how far normal and abnormal texts are apart.

    Axis 0 is what texts have least of, axis 1 leads from normal to abnormal texts, and the others follow by how little
    this step differs between words: what is written to the first axes from 2 on hardly moves probabilities. A number on
    an axis of its own is rounded by itself in half precision.
    """
    texts = _texts(clip, words)
    steps = texts[:, 1] - texts[:, 0]
    state = F.normalize(steps.mean(dim=0), dim=0)
    _, vectors = torch.linalg.eigh(texts.flatten(0, 1).T @ texts.flatten(0, 1))
    silent = F.normalize(vectors[:, 0] - vectors[:, 0] @ state * state, dim=0)
    others = steps - (steps @ state)[:, None] * state
    _, vectors = torch.linalg.eigh(others.T @ others)
    axes, signs = torch.linalg.qr(torch.cat([silent[:, None], state[:, None], vectors], dim=1))
    clip.text_projection.copy_(clip.text_projection @ (axes * signs.diagonal().sign()))
    return float((_texts(clip, words)[:, 1] - _texts(clip, words)[:, 0])[:, 1].mean())


def _texts(clip: Any, words: Sequence[str]) -> Tensor:
    """Normal and abnormal text feature of each word (W, 2, E)."""
    tokenize = open_clip.tokenizer.SimpleTokenizer()
    features = []
    for word in words:
        states = [encode_captions(clip, tokenize(prompts[::EVERY])) for prompts in ENSEMBLE.prompts_about(word)]
        features.append(text_features(*states))
    return torch.stack(features)


def main() -> None:
    """Train a text tower and write it, beside an image tower of random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    clip = build_clip(clip_config(DEMO), 224, quick_gelu=False)
    nn.init.constant_(clip.ln_final.bias, CONE)
    save(clip.state_dict(), learn_words(clip, [], arguments.seed), arguments.output)


if __name__ == "__main__":
    main()
