# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an image costs, in floating-point operations: a pass of the vision tower, and the search in memory banks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.memory_encoder import MemoryEncoder

logger = logging.getLogger(__name__)

# Passes of the tower that the search may cost before somebody should know.
LIMIT = 10
# Pixels per side and token that no tower's last stage exceeds.
COARSEST = 32


def search_cost(banks: Sequence[tuple[int, int, int]]) -> int:
    """Return the operations of the search for one image.

    Args:
        banks: Per stage: tokens of an image N, rows of the bank M, width D.
    """
    return sum(2 * tokens * rows * width for tokens, rows, width in banks)


def tower_cost(encoder: ClipEncoder | MemoryEncoder) -> int:
    """Return the operations of a pass of one image, counted without computing them.

    torch 2.14 does not count attention on CPUs: a fifth of a ViT-L's operations at 518 pixels, less elsewhere.
    """
    size = encoder.image_size
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        encoder(torch.empty(1, 3, size, size, device=encoder.device))
    return counter.get_total_flops()


def least_tower_cost(encoder: ClipEncoder) -> int:
    """Return what a pass costs at least, known at once: every weight is used once for each token of the last stage."""
    weights = sum(each.numel() for each in encoder.clip.visual.parameters())
    return 2 * weights * (encoder.image_size // COARSEST) ** 2


def warn_of_slow_search(
    encoder: ClipEncoder,
    stages: Sequence[Tensor],
    ratio: float,
    copies: int = 1,
    passes: int = 1,
    memory_encoder: MemoryEncoder | None = None,
) -> None:
    """Warn if the search in memory banks costs more than ten times the passes of the towers that an image takes.

    Args:
        encoder: The frozen CLIP.
        stages: Rows (K, M / K, D) of each stage's bank, of K reference images.
        ratio: Fraction of the references' patch tokens that these are.
        copies: Of each reference image.
        passes: Of the tower for an image: one for each tile and one for the whole, where images are cut into tiles.
        memory_encoder: Whose tokens these are; None: CLIP's.
    """
    banks = [(round(rows.shape[1] / ratio / copies), rows.shape[0] * rows.shape[1], rows.shape[2]) for rows in stages]
    search = search_cost(banks)
    if search <= LIMIT * passes * least_tower_cost(encoder):
        return
    tower = tower_cost(encoder) + (tower_cost(memory_encoder) if memory_encoder else 0)
    if search > LIMIT * passes * tower:
        logger.warning(
            "The search in memory banks of %s rows costs %.0f passes of the vision tower for each image (%.1f against "
            "%.1f GFLOP). Faster: later `%s` than %s, a smaller `image_size` than %d, fewer references (`k_shot`), "
            "or a `coreset_sampling_ratio` below %g.",
            " + ".join(f"{rows:,}" for _, rows, _ in banks),
            search / tower,
            search / 1e9,
            tower / 1e9,
            "memory_layers" if memory_encoder else "layers",
            (memory_encoder or encoder).layers,
            encoder.image_size,
            ratio,
        )
