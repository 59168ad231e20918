# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Fewer patch tokens per reference image, chosen as PatchCore chooses its memory bank."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import torch
from torch import Tensor


def coreset(tokens: Tensor, ratio: float) -> Tensor:
    """A part (K, int(ratio N), D) of the patch tokens (K, N, D) of K images, each image's own; ratio 1: all.

    Differs: PatchCore reduces all images together, whose time grows with the square of K, and loses which rows are
    whose. Leaving out a reference, as its thresholds need it, must know that.

    Raises:
        ValueError: If no token would be left.
    """
    if ratio == 1:
        return tokens
    with torch.random.fork_rng(devices=[tokens.device] if tokens.is_cuda else []):
        torch.manual_seed(0)  # the same tokens give the same part
        return torch.stack([_part(image.float(), ratio) for image in tokens])


def _part(rows: Tensor, ratio: float) -> Tensor:
    from anomalib.models.components import KCenterGreedy  # noqa: PLC0415  # imports AprilGan, which imports this

    sampler = KCenterGreedy(rows, ratio)
    sampler.model.random_state = 0
    with redirect_stderr(io.StringIO()):  # a progress bar for every image and stage
        return sampler.sample_coreset()
