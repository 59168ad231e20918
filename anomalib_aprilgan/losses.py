# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of adapter training, on two-channel probability maps (arXiv:2305.17382, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTH = 1e-5


def focal_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Focal loss with exponent 2, a scalar.

    Args:
        probabilities: Of normal and abnormal, (B, 2, H, W) in [0, 1].
        masks: 1 where abnormal, else 0, (B, H, W).
    """
    one_hot = torch.stack([1 - masks, masks], dim=1).clamp(SMOOTH, 1 - SMOOTH)
    p_true = (one_hot * probabilities).sum(dim=1) + SMOOTH
    return -((1 - p_true) ** 2 * p_true.log()).mean()


def dice_loss(probability: Tensor, masks: Tensor) -> Tensor:
    """1 - mean over images of the smoothed Dice coefficient, a scalar in [0, 1].

    Args:
        probability: Of abnormal, (B, H, W) in [0, 1].
        masks: 1 where abnormal, else 0, (B, H, W).
    """
    overlap = (probability * masks).sum(dim=(-2, -1))
    size = probability.sum(dim=(-2, -1)) + masks.sum(dim=(-2, -1))
    return 1 - ((2 * overlap + 1) / (size + 1)).mean()
