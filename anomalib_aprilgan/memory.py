# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Memory bank: the patch tokens of a few normal images, per stage, their coreset, and the search in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# 64 MiB of similarities are held at once, however large batch and bank are. Products with more rows of the bank are a
# third slower on CPUs: benchmarks/memory_search.py.
QUERIES_PER_PASS, ROWS_PER_PASS = 2**13, 2**11


class MemoryBank(nn.Module):
    """Per stage, the normalised patch tokens of the reference images, as buffers (K * N, D). Empty at first.

    Args:
        widths: Width D of each stage.
        dtype: In which rows are kept; bfloat16 takes half the memory.
    """

    stage0: Tensor

    def __init__(self, widths: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.n_stages = len(widths)
        for stage, width in enumerate(widths):
            self.register_buffer(f"stage{stage}", torch.empty(0, width, dtype=dtype))

    @property
    def banks(self) -> list[Tensor]:
        """The stages' rows (K * N, D), unit vectors."""
        return [getattr(self, f"stage{stage}") for stage in range(self.n_stages)]

    @property
    def dtype(self) -> torch.dtype:
        """In which rows are kept."""
        return self.stage0.dtype

    @property
    def is_empty(self) -> bool:
        """Whether there are no reference images."""
        return len(self.stage0) == 0

    def replace(self, banks: Sequence[Tensor]) -> None:
        """Keep these rows (K * N, D) of each stage instead; none: be empty."""
        for stage, rows in enumerate(banks or [bank[:0] for bank in self.banks]):
            setattr(self, f"stage{stage}", rows)

    def resize(self, rows: Sequence[int]) -> None:
        """Allocate ``rows`` per stage, uninitialised, to be loaded from a state dict."""
        self.replace([bank.new_empty(length, bank.shape[1]) for bank, length in zip(self.banks, rows, strict=True)])


def make_banks(stages: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Per stage, the unit rows (K * N, D) of the patch tokens (K, N, D) of K reference images."""
    return tuple(F.normalize(tokens.float().flatten(0, 1), dim=-1).to(dtype) for tokens in stages)


def select_references(banks: Sequence[Tensor], indices: Sequence[int], k_shot: int) -> tuple[Tensor, ...]:
    """The rows of some of the reference images.

    Args:
        banks: Rows (K * N, D) of each stage.
        indices: Of the images to keep, from 0.
        k_shot: Number K of images in the banks.
    """
    return tuple(bank.unflatten(0, (k_shot, -1))[list(indices)].flatten(0, 1) for bank in banks)


def distances(stages: Sequence[Tensor], banks: Sequence[Tensor]) -> list[Tensor]:
    """Per stage, the cosine distance (B, N) in [0, 2] of tokens (B, N, D) to the nearest row of the bank (M, D)."""
    return [nearest_distance(tokens, bank) for tokens, bank in zip(stages, banks, strict=True)]


def nearest_distance(tokens: Tensor, bank: Tensor) -> Tensor:
    """Smallest cosine distance (B, N) of tokens (B, N, D) to the unit rows (M, D) of a bank.

    The distance of a zero vector to anything is 1. Under autocast the nearest row is found in half precision; its
    distance is computed in float32.
    """
    queries = F.normalize(tokens.float(), dim=-1).flatten(0, 1)
    if torch.compiler.is_exporting():  # the number of passes would fix the batch size, and runtimes lack bfloat16
        nearest = (queries @ bank.float().mT).amax(dim=-1)
    else:
        nearest = torch.cat([_nearest_similarity(rows, bank) for rows in queries.split(QUERIES_PER_PASS)])
    return (1 - nearest).view(tokens.shape[:-1])


def _nearest_similarity(queries: Tensor, bank: Tensor) -> Tensor:
    """The largest cosine (Q,) of unit queries (Q, D) with the rows (M, D) of a bank."""
    parts = bank.split(ROWS_PER_PASS)
    if not torch.is_autocast_enabled(queries.device.type):
        return torch.stack([(queries @ rows.float().mT).amax(dim=-1) for rows in parts]).amax(dim=0)
    found = [(queries @ rows.mT).max(dim=-1) for rows in parts]
    part = torch.stack([each.values for each in found]).argmax(dim=0)
    index = torch.stack([each.indices for each in found]).gather(0, part.unsqueeze(0))[0] + part * ROWS_PER_PASS
    return (queries * bank[index]).sum(dim=-1)


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
