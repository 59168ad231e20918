# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The text tower learns first, from captions alone, and stays as it is while the image tower learns (LiT).

Otherwise the two towers begin by making all embeddings equal, and take longer to part them again than there is time.
"""

from __future__ import annotations

import numpy as np
import open_clip
import torch
from captions import ARBITRARY, GENERIC, caption
from model import SCALE, clip_loss, encode_captions
from open_clip.model import CLIP
from torch.nn import functional as F

STEPS, WORDS_PER_STEP, LEARNING_RATE = 250, 24, 1e-3


def learn_words(clip: CLIP, names: list[str], seed: int, steps: int = STEPS) -> list[int]:
    """Train the text tower to know word and state of a caption in any wording; return the tokens that were used.

    The loss is open_clip's: two captions of the same word and state belong together, all others of the batch do not.
    """
    rng = np.random.default_rng([seed, 2])
    words = sorted({*names, *GENERIC, *ARBITRARY})
    tokenize = open_clip.tokenizer.SimpleTokenizer()
    parameters = [p for name, p in clip.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    seen: set[int] = set()
    for step in range(steps):
        chosen = rng.choice(words, WORDS_PER_STEP, replace=False)
        wordings = [[caption(word, state, rng) for state in (False, True) for word in chosen] for _ in range(2)]
        tokens = tokenize(wordings[0] + wordings[1])
        seen.update(tokens.unique().tolist())
        one, other = F.normalize(encode_captions(clip, tokens), dim=-1).chunk(2)
        loss = clip_loss(one, other, SCALE)
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
    for parameter in parameters:
        parameter.requires_grad_(False)
    return sorted(seen)
