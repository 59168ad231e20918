# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The 2x2 mosaic with which adapters learn smaller defects (arXiv:2305.17382, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


def mosaic(images: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One image (C, 2 H, 2 W) and mask (2 H, 2 W) of four images (C, H, W) and masks (H, W), row by row.

    Images of another size than the first are resized to it.
    """
    size = list(images[0].shape[-2:])
    tiles = [F.resize(image, size, InterpolationMode.BICUBIC, antialias=True) for image in images]
    mask_tiles = [F.resize(mask.unsqueeze(0), size, InterpolationMode.NEAREST_EXACT).squeeze(0) for mask in masks]
    return _grid(tiles), _grid(mask_tiles)


def _grid(tiles: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.cat(list(tiles[:2]), dim=-1), torch.cat(list(tiles[2:]), dim=-1)], dim=-2)
