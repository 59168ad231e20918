# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds without defects: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

# How much views differ from their reference: parts of the smaller side, degrees, parts of the exposure.
SHIFT = 0.02
ANGLE = 3.0
LIGHT = 0.1


def normal_threshold(scores: Tensor, false_positive_rate: float, margin: float) -> Tensor:
    """The threshold () that at most ``false_positive_rate`` of the normal scores (M,) reach.

    It lies by ``margin`` above the highest of the others, so that rounding does not flag that one. With fewer scores
    than 1 / rate, no score reaches it.
    """
    flagged = int(false_positive_rate * len(scores))
    return scores.sort(descending=True).values[flagged] + margin


def views(image: Tensor) -> list[Tensor]:
    """The image (3, H, W) in [0, 1] as it is, and three times as the next parts may lie and be lit.

    What comes into view at the borders is mirrored.
    """
    shift = round(SHIFT * min(image.shape[-2:]))
    changed = [
        (_move(image, angle, [offset, offset]) * light).clamp(0, 1)
        for angle, offset, light in ((ANGLE, shift, 1.0), (-ANGLE, -shift, 1 - LIGHT), (0.0, 0, 1 + LIGHT))
    ]
    return [image, *changed]


def _move(image: Tensor, angle: float, translate: list[int]) -> Tensor:
    """The image turned by degrees and shifted by pixels."""
    height, width = image.shape[-2:]
    margin = min(height, width) // 10
    padded = F.pad(image.unsqueeze(0), [margin] * 4, mode="reflect").squeeze(0)
    moved = transforms.affine(
        padded, angle, translate, scale=1.0, shear=[0.0, 0.0], interpolation=transforms.InterpolationMode.BILINEAR
    )
    return torch.as_tensor(transforms.center_crop(moved, [height, width]))
