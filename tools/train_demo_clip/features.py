# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Feature maps of the pictures to learn from: the tower stays as it is, so each picture goes through it once.

python tools/train_demo_clip/features.py --output features.pt
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from damage import Array
from numpy.typing import NDArray
from pictures import make_pool
from scenes import Pair, make_pair
from tower import imagenet_trunk, stages

MASK_SIDE, PAIRS = 56, 3000


@dataclass
class Pictures:
    """Pictures (B, H, W, 3), masks (B, h, w), and labels (B,), 1 where there is damage."""

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    masks: list[Array] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Append both pictures of a pair."""
        mask = cv2.resize(pair.mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
        self.images += [pair.normal, pair.damaged]
        self.masks += [np.zeros_like(mask), mask]
        self.labels += [0.0, 1.0]


def main() -> None:
    """Make pictures and write their features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file of torch.save")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of pictures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng([arguments.seed, 3])
    pictures = Pictures()
    pool = make_pool(arguments.seed)
    for number in range(arguments.pairs):
        pictures.add(make_pair(pool, rng))
        if number % 100 == 0:
            print(f"{number} pairs", flush=True)
    save(pictures, arguments.output)


def save(pictures: Pictures, output: Path) -> None:
    """Write the features of all pictures, and what is known of them."""
    trunk, parts = imagenet_trunk(), []
    for number, batch in enumerate(_batches(pictures.images), start=1):
        parts.append(stages(trunk, batch))
        print(f"{number * len(parts[0][0])} of {len(pictures.images)} pictures", flush=True)
    facts = {
        "stages": [torch.cat(part) for part in zip(*parts, strict=True)],
        "masks": torch.from_numpy(np.stack(pictures.masks)),
        "labels": torch.tensor(pictures.labels),
    }
    torch.save(facts, output)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote."""
    return torch.load(path, weights_only=True)


def _batches(images: list[NDArray[np.uint8]], size: int = 64) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(images), size):
        yield np.stack(images[first : first + size])


if __name__ == "__main__":
    main()
