# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Memory bank: the patch tokens of a few normal images, per stage, their coreset, and the search in it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# 64 MiB of similarities are held at once, however large batch and bank are. Products with more rows of the bank are a
# third slower on CPUs: benchmarks/memory_search.py.
QUERIES_PER_PASS, ROWS_PER_PASS = 2**13, 2**11


@dataclass(frozen=True)
class BankOptions:
    """How memory banks are filled and searched.

    Args:
        coreset_sampling_ratio: Fraction of each reference image's patch tokens that is kept, in (0, 1].
        half_precision: Keep rows in bfloat16.
        rotations: Copies of each reference image: 1, itself; 4, turned by quarters; 8, these and their mirror images.
        neighbourhoods: Odd numbers r: tokens are means over r x r patches; distances are means over all r.
        embeddings: Also keep the reference images' embeddings, as a bank of their own after those of the stages.
        positions: Number T of tiles of an image that are each compared with the references' tile at the same place; 1:
            all are compared with all.

    Raises:
        ValueError: If a value is out of range.
    """

    coreset_sampling_ratio: float = 1.0
    half_precision: bool = False
    rotations: int = 1
    neighbourhoods: tuple[int, ...] = (1,)
    embeddings: bool = False
    positions: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "neighbourhoods", tuple(self.neighbourhoods))
        if not 0 < self.coreset_sampling_ratio <= 1:
            msg = f"`coreset_sampling_ratio` must be a fraction, 0 < ratio <= 1; got {self.coreset_sampling_ratio}."
            raise ValueError(msg)
        if self.rotations not in {1, 4, 8}:
            msg = f"`reference_rotations` must be 1, 4 or 8 copies of each image, got {self.rotations}."
            raise ValueError(msg)
        odd = all(isinstance(r, int) and r > 0 and r % 2 for r in self.neighbourhoods)
        if not odd or not self.neighbourhoods or len(set(self.neighbourhoods)) < len(self.neighbourhoods):
            msg = f"`neighbourhoods` must be different odd numbers of patches, as [1, 3]; got {self.neighbourhoods}."
            raise ValueError(msg)

    @property
    def changed(self) -> str:
        """What differs from the paper, in words that tell banks apart; "" if nothing does."""
        return ", ".join(
            f"{each.name} {getattr(self, each.name)}"
            for each in fields(self)[2:]  # the ratio is told by itself; half precision is only how rows are stored
            if getattr(self, each.name) != each.default
        )

    def widths(self, stages: Sequence[int], embedding: int) -> list[int]:
        """Width of each bank, from those of the stages and of the joint space."""
        return [width for width in stages for _ in self.neighbourhoods] + [embedding] * self.embeddings

    def compared(self, embedding: Tensor, stages: Sequence[Tensor], memory: Sequence[Tensor] = ()) -> list[Tensor]:
        """What is compared with each bank: tokens (B, N, D) of each stage and neighbourhood; embeddings (B, 1, E).

        Args:
            embedding: Of images; of one that is cut into tiles, that of the whole counts.
            stages: Patch tokens (B, N, D) of each of CLIP's stages.
            memory: Those of a memory encoder, which take their place.
        """
        tokens = [local_means(each, r) for each in memory or stages for r in self.neighbourhoods]
        whole = embedding.view(embedding.shape[0], -1, embedding.shape[-1])[:, :1]
        return [*tokens, whole] if self.embeddings else tokens

    def rows(self, *encoded: Any) -> list[Tensor]:
        """What each bank keeps of one reference image's R copies or tiles, as ``compared`` takes it: (1, rows, D)."""
        ratio = self.coreset_sampling_ratio
        tokens = [coreset(each, ratio if each.shape[1] > 1 else 1.0) for each in self.compared(*encoded)]
        if self.positions > 1:  # so that every T-th row is of the same tile, whichever references are left out
            tokens = [each.transpose(0, 1) for each in tokens]
        return [each.flatten(0, 1).unsqueeze(0) for each in tokens]

    def distances(self, tokens: Sequence[Tensor], banks: Sequence[Tensor]) -> list[Tensor]:
        """Per bank, the cosine distance (B, N) to its nearest row of what is ``compared`` with it."""
        positions = [self.positions] * (len(tokens) - self.embeddings) + [1] * self.embeddings
        return list(map(distance_by_position, tokens, banks, positions))


def turned(images: Tensor, rotations: int) -> Tensor:
    """Copies (rotations * B, 3, H, W) of square images (B, 3, H, W): 1, 4 quarter turns, or 8 with mirror images."""
    mirrored = [images, images.flip(-1)] if rotations == 8 else [images]
    return torch.cat([each.rot90(quarter, (-2, -1)) for each in mirrored for quarter in range(min(rotations, 4))])


def local_means(tokens: Tensor, r: int) -> Tensor:
    """Means over r x r patches of tokens (B, N, D) of a square grid; patches beyond the border do not count."""
    if r == 1:
        return tokens
    side = math.isqrt(tokens.shape[1])
    grid = tokens.mT.unflatten(-1, (side, side))
    return F.avg_pool2d(grid, r, stride=1, padding=r // 2, count_include_pad=False).flatten(2).mT


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


def distance_by_position(tokens: Tensor, bank: Tensor, positions: int) -> Tensor:
    """Smallest cosine distance (B * T, N) of the tokens (B * T, N, D) of T tiles to rows of a bank (M * T, D).

    A tile is compared with each T-th row, beginning with its own number.
    """
    if positions == 1:
        return nearest_distance(tokens, bank)
    parts = [nearest_distance(tokens[tile::positions], bank[tile::positions]) for tile in range(positions)]
    return torch.stack(parts, dim=1).flatten(0, 1)


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
