# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Pool: unlabelled images score each other by their patch tokens (MuSc, arXiv:2401.16753)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURHOODS = (1, 3, 5)
NEAREST = 0.3
NEIGHBOURS = (1, 2, 3)
# Local tokens of so many bytes, and so many similarities, are held at once, however large the pool is.
BLOCK_BYTES, SIMILARITIES_PER_PASS = 2**25, 2**22
# A cosine above this is too coarse a measure in float32: the distance of the two patches is computed itself.
CLOSE = 0.995


def mutual_scores(
    stages: Sequence[Tensor],
    neighbourhoods: Sequence[int] = NEIGHBOURHOODS,
    nearest: float = NEAREST,
    device: torch.device | str | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Patch scores (B, N) in [0, 2] of B images by each other: the mean over stages and neighbourhoods.

    A patch's score is its mean distance to the nearest of the other images. Its distance to an image is the smallest
    Euclidean distance to a patch of it; both are local means of r x r unit tokens. Under autocast the nearest patch is
    found in half precision; its distance is computed in float32.

    Differs: the authors multiply every two images' tokens twice, once for each direction. With fewer than 5 images they
    take the mean over none; here over the nearest one.

    Args:
        stages: Patch tokens (B, N, D) of each stage, of any float type. They may be larger than the memory if they are
            ``mapped``.
        neighbourhoods: Odd numbers r.
        nearest: Fraction of the other images, in (0, 1].
        device: That computes. None: the tokens'.
        advance: Is told of every pair of images that was compared, for a progress bar.

    Raises:
        ValueError: If there are fewer than two images, or an argument is out of range.
    """
    _check(len(stages[0]), 2, neighbourhoods, nearest)
    scores = [
        _mutual_stage_scores(tokens, r, nearest, torch.device(device or tokens.device), advance)
        for tokens in stages
        for r in neighbourhoods
    ]
    return torch.stack(scores).mean(dim=0)


def scores_against(
    stages: Sequence[Tensor],
    pool: Sequence[Tensor],
    same: Tensor | None = None,
    neighbourhoods: Sequence[int] = NEIGHBOURHOODS,
    nearest: float = NEAREST,
) -> Tensor:
    """Patch scores (B, N) of B images by the M images of a pool, as ``mutual_scores`` of them all would compare them.

    Args:
        stages: Patch tokens (B, N, D) of each stage, on the device that computes.
        pool: Those of the pool, (M, N, D).
        same: True where an image and one of the pool are the same, (B, M), which tells nothing. None: none are.
        neighbourhoods: Odd numbers r.
        nearest: Fraction of the pool's images, in (0, 1].

    Raises:
        ValueError: If the pool has no other image than this, or an argument is out of range.
    """
    others = torch.ones(len(stages[0]), len(pool[0]), dtype=torch.bool) if same is None else ~same.cpu()
    _check(int(others.sum(dim=1).min()), 1, neighbourhoods, nearest)
    scores = [
        _stage_scores_against(tokens, rows, others, r, nearest)
        for tokens, rows in zip(stages, pool, strict=True)
        for r in neighbourhoods
    ]
    return torch.stack(scores).mean(dim=0)


def smooth_scores(scores: Tensor, embeddings: Tensor, neighbours: Sequence[int] = NEIGHBOURS) -> Tensor:
    """Image scores (B,) in [0, 1], each the mean over the images that look most alike; mean over ``neighbours``.

    Args:
        scores: Image scores (B,), of any range; here scaled by their minimum and maximum.
        embeddings: Image embeddings (B, E).
        neighbours: Numbers k of images to average over, the image itself included, at most all; weighted by cosine.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    scaled = scale(scores, scores)
    return smooth_against(scaled, (unit @ unit.mT).fill_diagonal_(-math.inf), scaled, neighbours)


def scale(scores: Tensor, pool: Tensor) -> Tensor:
    """Scores scaled so that those of the pool (M,) are in [0, 1]; 0 if these are all the same."""
    low, high = pool.min(), pool.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


def smooth_against(scores: Tensor, cosines: Tensor, pool: Tensor, neighbours: Sequence[int] = NEIGHBOURS) -> Tensor:
    """Image scores (B,), each the mean of its own and those of the images in a pool that look most alike.

    Args:
        scores: Image scores (B,).
        cosines: Of the embeddings of the images and the pool's, (B, M); minus infinity where both are the same image.
        pool: Image scores of the pool (M,).
        neighbours: Numbers k of images to average over, the image itself included, at most all; weighted by cosine.

    Raises:
        ValueError: If ``neighbours`` are not positive.
    """
    if not neighbours or min(neighbours) < 1:
        msg = f"`neighbours` must be numbers of images from 1, such as (1, 2, 3); got {tuple(neighbours)}."
        raise ValueError(msg)
    alike = cosines.topk(min(max(neighbours) - 1, len(pool)))
    weights = torch.cat([torch.ones_like(scores)[:, None], alike.values.where(alike.values.isfinite(), 0.0)], dim=1)
    values = torch.cat([scores[:, None], pool[alike.indices]], dim=1)
    means = [(weights[:, :k] * values[:, :k]).sum(dim=1) / weights[:, :k].sum(dim=1) for k in neighbours]
    return torch.stack(means).mean(dim=0)


def mean_distance(cosines: Tensor, nearest: float = NEAREST) -> Tensor:
    """Mean cosine distance (B,) of each image's embedding to the nearest of the other images'.

    Args:
        cosines: Of the embeddings of the images and the pool's, (B, M); minus infinity where both are the same image.
        nearest: Fraction of the other images, in (0, 1].
    """
    counts = (nearest * cosines.isfinite().sum(dim=1)).int().clamp(min=1).unsqueeze(1)
    distances = 1 - cosines.sort(dim=1, descending=True).values
    return distances.where(torch.arange(cosines.shape[1]) < counts, 0.0).sum(dim=1) / counts[:, 0]


def mapped(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor in a temporary file that goes with it, so that the system may take back the memory. See ``TMPDIR``."""
    with tempfile.NamedTemporaryFile() as file:
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def local_tokens(tokens: Tensor, r: int) -> Tensor:
    """Means over r x r patches of tokens (B, N, D) that are normalised over the image, as unit vectors.

    Positions beyond the border count as zeros.
    """
    tokens = F.layer_norm(tokens.float(), tokens.shape[1:])
    if r > 1:
        side = math.isqrt(tokens.shape[1])
        grid = tokens.mT.unflatten(-1, (side, side))
        tokens = F.avg_pool2d(grid, r, stride=1, padding=r // 2).flatten(2).mT
    return F.normalize(tokens, dim=-1)


def _check(n_images: int, least: int, neighbourhoods: Sequence[int], nearest: float) -> None:
    if n_images < least:
        msg = f"A pool compares an image with others: it needs at least {least} of them, got {n_images}. Add images."
        raise ValueError(msg)
    if not neighbourhoods or any(r < 1 or r % 2 == 0 for r in neighbourhoods):
        msg = f"`neighbourhoods` must be odd numbers of patches, such as (1, 3, 5); got {tuple(neighbourhoods)}."
        raise ValueError(msg)
    if not 0 < nearest <= 1:
        msg = f"`nearest` must be a fraction of the other images, 0 < nearest <= 1; got {nearest}."
        raise ValueError(msg)


def _mutual_stage_scores(
    tokens: Tensor, r: int, nearest: float, device: torch.device, advance: Callable[[int], object]
) -> Tensor:
    """Patch scores (B, N) by one stage and neighbourhood."""
    n_images, n_patches = tokens.shape[:2]
    found = mapped(n_images, n_images, n_patches)  # distance of each image's patches to each image
    blocks = _blocks(tokens)
    for number, block in enumerate(blocks):
        rows = _load(tokens, block, r, device)
        for column in blocks[number:]:
            columns = rows if column is block else _load(tokens, column, r, device)
            for image, own in zip(block, rows, strict=True):
                others = slice(max(column.start, image + 1), column.stop)
                there, back = _both_distances(own, columns[others.start - column.start :])
                found[image, others], found[others, image] = there.to(found), back.to(found)
                advance(len(there))
    images = torch.arange(n_images)
    return torch.stack([_mean_of_nearest(found[image, images != image], nearest) for image in images])


def _stage_scores_against(tokens: Tensor, pool: Tensor, others: Tensor, r: int, nearest: float) -> Tensor:
    """Patch scores (B, N) by one stage and neighbourhood; ``others`` (B, M) tells which of the pool count."""
    found = tokens.new_empty(len(tokens), *pool.shape[:2], dtype=torch.float32)
    queries = local_tokens(tokens, r)
    for block in _blocks(pool):
        rows = _load(pool, block, r, tokens.device)
        for image, own in enumerate(queries):
            found[image, block.start : block.stop] = _both_distances(own, rows)[0]
    return torch.stack([_mean_of_nearest(each[use], nearest) for each, use in zip(found, others, strict=True)])


def _blocks(tokens: Tensor) -> list[range]:
    """Numbers of the images whose local tokens are held at once."""
    n_images, n_patches, width = tokens.shape
    size = max(1, BLOCK_BYTES // (4 * n_patches * width))
    return [range(start, min(start + size, n_images)) for start in range(0, n_images, size)]


def _load(tokens: Tensor, block: range, r: int, device: torch.device) -> Tensor:
    return local_tokens(tokens[block.start : block.stop].to(device), r)


def _mean_of_nearest(distances: Tensor, nearest: float) -> Tensor:
    """The mean (N,) over the nearest of the M images of the distances (M, N)."""
    count = max(1, int(nearest * len(distances)))
    return distances.topk(count, dim=0, largest=False).values.mean(dim=0)


def _both_distances(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (M, N) of an image's unit tokens (N, D) to M others, and of the others' (M, N, D) to the image."""
    size = max(1, SIMILARITIES_PER_PASS // len(own) ** 2)
    found = [_distances_in_one_pass(own, part) for part in others.split(size)] if len(others) else []
    there, back = zip(*found, strict=True) if found else ((others[..., 0],), (others[..., 0],))
    return torch.cat(there), torch.cat(back)


def _distances_in_one_pass(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    similarity = (own @ others.flatten(0, 1).mT).unflatten(1, others.shape[:2])  # serves both directions
    same = own.expand_as(others)
    return _nearest(similarity.transpose(0, 1), same, others), _nearest(similarity.permute(1, 2, 0), others, same)


def _nearest(similarity: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Smallest Euclidean distances (M, N) of unit rows to the others (M, N, D), whose cosines are (M, N, N)."""
    largest = similarity.amax(dim=-1).float()
    distances = (2 - 2 * largest).clamp(min=0).sqrt()
    coarse = (largest > CLOSE) | (similarity.dtype != torch.float32)
    image, patch = coarse.nonzero(as_tuple=True)
    other = similarity[image, patch].argmax(dim=-1)
    distances[image, patch] = (rows[image, patch] - others[image, other]).norm(dim=-1)
    return distances
