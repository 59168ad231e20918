# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image scores: pure functions of float32 tensors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

LOGIT_SCALE = 100.0


def text_score(embedding: Tensor, text_features: Tensor) -> Tensor:
    """Probability of abnormal (B,) of image embeddings (B, E) against unit text features (2, E).

    Uses no adapter and no map (arXiv:2305.17382, section 2.1).
    """
    logits = LOGIT_SCALE * F.normalize(embedding, dim=-1) @ text_features.mT
    return logits.softmax(dim=-1)[..., 1]


def few_shot_score(text: Tensor, peak: Tensor, bounds: Tensor) -> Tensor:
    """Mean (B,) of the text score (B,) and the anomaly map's maximum (B,), scaled by bounds (2,): minimum, maximum.

    A maximum beyond the bounds gives a score beyond [0, 1], so that the order of the images is kept. Equal bounds
    tell nothing about the images: the scaled maximum is then 0.
    """
    low, high = bounds.unbind()
    scaled = (peak - low) / (high - low).where(high > low, 1.0)
    return (text + scaled.where(high > low, 0.0)) / 2
