# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Augmentations of a reference image that stand for further normal images: pure functions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

# How much augmentations differ from their reference: parts of the smaller side, degrees, parts of the exposure.
SHIFT = 0.02
ANGLE = 3.0
LIGHT = 0.1


def augmentations(image: Tensor) -> Iterator[Tensor]:
    """The image (3, H, W) in [0, 1] as it is, and three times as the next parts may lie and be lit.

    What comes into view at the borders is mirrored.
    """
    yield image
    shift = round(SHIFT * min(image.shape[-2:]))
    for angle, offset, light in ((ANGLE, shift, 1.0), (-ANGLE, -shift, 1 - LIGHT), (0.0, 0, 1 + LIGHT)):
        yield (_move(image, angle, [offset, offset]) * light).clamp(0, 1)


def _move(image: Tensor, angle: float, translate: list[int]) -> Tensor:
    """The image turned by degrees and shifted by pixels."""
    height, width = image.shape[-2:]
    margin = min(height, width) // 10
    padded = F.pad(image.unsqueeze(0), [margin] * 4, mode="reflect").squeeze(0)
    moved = transforms.affine(
        padded, angle, translate, scale=1.0, shear=[0.0, 0.0], interpolation=transforms.InterpolationMode.BILINEAR
    )
    return torch.as_tensor(transforms.center_crop(moved, [height, width]))
