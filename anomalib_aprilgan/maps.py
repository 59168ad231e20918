# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly maps and image scores: pure functions of float32 tensors, the same ones in training and inference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LOGIT_SCALE = 100.0
# A range narrower than this fraction of the theoretical one would magnify rounding errors.
NARROW = 1e-3
# Cosine distances of embeddings count so many times before they are bounded; docs/beyond.md has what others give.
EMBEDDING_SCALE = 5.0


def stage_probabilities(tokens: Tensor, text_features: Tensor, image_size: int) -> Tensor:
    """Probabilities (B, 2, H, W) of normal and abnormal, from one stage's adapted tokens (B, N, E).

    Differs: the report's figure shows the softmax before the resizing, the authors' code resizes the logits.

    Args:
        tokens: Patch tokens in the joint space; need not be normalised.
        text_features: Unit rows normal and abnormal, (2, E) for all images or (B, 2, E).
        image_size: H and W in pixels.
    """
    logits = F.normalize(tokens, dim=-1).mul_(LOGIT_SCALE) @ text_features.mT
    return resize(logits, image_size).softmax(dim=1)


def zero_shot_map(stages: Iterable[Tensor], text_features: Tensor, image_size: int) -> Tensor:
    """Anomaly map (B, H, W) in [0, S]: the probability of abnormal summed over S stages of adapted tokens (B, N, E)."""
    # Copied, so that the probabilities of normal are not held as well.
    return sum_stages([stage_probabilities(tokens, text_features, image_size)[:, 1].clone() for tokens in stages])


def few_shot_map(distances: Sequence[Tensor], image_size: int) -> Tensor:
    """Anomaly map (B, H, W) in [0, 2 S]: S stages' distances (B, N) to the memory bank, resized and summed."""
    return sum_stages([resize(distance.unsqueeze(-1), image_size)[:, 0] for distance in distances])


def resize(patches: Tensor, image_size: int) -> Tensor:
    """Values per patch (B, N, C) of a square grid, as images (B, C, H, W), bilinear with aligned corners."""
    side = math.isqrt(patches.shape[1])
    grid = patches.mT.unflatten(-1, (side, side))
    return F.interpolate(grid, size=(image_size, image_size), mode="bilinear", align_corners=True)


def sum_stages(stage_maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps of the same shape."""
    return torch.stack(list(stage_maps)).sum(dim=0)


def text_score(embedding: Tensor, text_features: Tensor) -> Tensor:
    """Probability of abnormal (B,) of image embeddings (B, E) against unit text features (2, E).

    Uses no adapter and no map (arXiv:2305.17382, section 2.1). Of images and their tiles (B, 1 + T, E): the largest.
    """
    logits = LOGIT_SCALE * F.normalize(embedding, dim=-1) @ text_features.mT
    score = logits.softmax(dim=-1)[..., 1]
    return score if score.ndim == 1 else score.amax(dim=1)


def embedding_score(distance: Tensor) -> Tensor:
    """Score (B,) in [0, 1) of the cosine distance (B,) of image embeddings to the nearest of the references'."""
    return 1 - torch.exp(-EMBEDDING_SCALE * distance)


def few_shot_score(text: Tensor, peak: Tensor, bounds: Tensor) -> Tensor:
    """Mean (B,) of the text score (B,) and the anomaly map's peak (B,), scaled by bounds (2,): minimum, maximum.

    A peak beyond the bounds gives a score beyond [0, 1], so that the order of the images is kept. Equal bounds
    tell nothing about the images: the scaled peak is then 0.
    """
    low, high = bounds.unbind()
    scaled = (peak - low) / (high - low).where(high > low, 1.0)
    return (text + scaled.where(high > low, 0.0)) / 2


def score_bounds(peaks: Tensor, upper_bound: float) -> Tensor:
    """Range (2,) of the maps' peaks (M,) over validation images; NaN if they are too alike to scale scores by it.

    Args:
        peaks: Of the anomaly maps.
        upper_bound: What no anomaly map exceeds.
    """
    bounds = torch.stack([peaks.min(), peaks.max()])
    return bounds if bounds[1] - bounds[0] > NARROW * upper_bound else torch.full_like(bounds, torch.nan)


def map_maxima(anomaly_maps: Tensor) -> Tensor:
    """Maximum (B,) of each anomaly map (B, H, W)."""
    return anomaly_maps.amax(dim=(-2, -1))


def map_peaks(anomaly_maps: Tensor, fraction: float) -> Tensor:
    """Mean (B,) of the highest max(1, round(fraction * H * W)) values of each anomaly map (B, H, W)."""
    values = anomaly_maps.flatten(1)
    count = max(1, round(fraction * int(values.shape[1])))  # a tensor while torch traces
    return map_maxima(anomaly_maps) if count == 1 else values.topk(count, sorted=False).values.mean(dim=1)


def check_finite(values: Tensor, what: str, names: Sequence[str] | None = None) -> None:
    """Check that there are numbers for all images.

    Args:
        values: One for each image, (B,).
        what: Is made of the images, in words.
        names: Of the images; None: their indices.

    Raises:
        ValueError: If there are not, naming the images.
    """
    finite = values.isfinite()
    if finite.all():
        return
    bad = [str(index if names is None else names[index]) for index in (~finite).nonzero().flatten().tolist()]
    msg = (
        f"The {what} are not finite numbers for {', '.join(bad)}: the weights are damaged, or half precision "
        "overflows. Use --trainer.precision 32-true or bf16-mixed, or other weights."
    )
    raise ValueError(msg)
