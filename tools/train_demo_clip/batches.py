# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Batches of pictures and captions: each thing once normal, once damaged, all things of a batch named differently.

The first half of the pairs are twins: the same view with and without damage. Those of the other half show two places of
one thing, as a reference image and a test image do.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import open_clip
import torch
from captions import caption, choose_word
from damage import Array, damage_often
from pictures import Named, light_and_noise, views
from torch import Tensor
from torch.utils.data import Dataset


@dataclass
class Phase:
    """A part of training with pictures of one size."""

    steps: int
    pairs: int  # normal and damaged pictures of the same thing in a batch
    side: int  # pixels


class Batches(Dataset):
    """The batch of each step: the same for the same seed, whatever process makes it.

    Args:
        pool: What views are taken of.
        phases: Parts of training.
        patch: Side of a patch in pixels.
        seed: Of everything.
    """

    def __init__(self, pool: list[Named], phases: list[Phase], patch: int, seed: int) -> None:
        self.pool = pool
        self.sizes = [phase for phase in phases for _ in range(phase.steps)]
        self.patch = patch
        self.seed = seed
        self.tokenize = open_clip.tokenizer.SimpleTokenizer()

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.sizes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (2 n, 3, H, W), uint8, damaged ones last; share of damage per patch (n, N); tokens (2 n, L)."""
        rng = np.random.default_rng([self.seed, 1, step])
        phase = self.sizes[step]
        normal, damaged, shares, words = [], [], [], []
        for _ in range(phase.pairs):
            name, picture, other = views(self.pool, phase.side, rng)
            changed, mask = damage_often(picture if len(words) < twins(phase.pairs) else other, rng)
            normal.append(light_and_noise(picture, rng))
            damaged.append(light_and_noise(changed, rng))
            shares.append(cv2.resize(mask, (phase.side // self.patch,) * 2, interpolation=cv2.INTER_AREA).ravel())
            words.append(self._new_word(name, words, rng))
        sentences = [caption(word, abnormal, rng) for abnormal in (False, True) for word in words]
        return _stack(normal + damaged), torch.from_numpy(np.stack(shares)), self.tokenize(sentences)

    @staticmethod
    def _new_word(name: str, words: list[str], rng: np.random.Generator) -> str:
        """A word that no other thing of the batch has: the contrast would call equal captions different."""
        word = choose_word(name, rng)
        while word in words:
            word = choose_word(str(rng.choice(["texture", "image", "pattern"])), rng)
        return word


def twins(pairs: int) -> int:
    """How many of the pairs, the first ones, show the same view twice."""
    return pairs // 2


def _stack(pictures: list[Array]) -> Tensor:
    return torch.from_numpy((np.stack(pictures) * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
