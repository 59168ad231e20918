# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Masks in files that lose information, which anomalib 2.7.0 reads with the noise beside the defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anomalib.data.datasets.base.image
import anomalib.data.datasets.image.mvtec_loco
import numpy as np
import torch
from anomalib.data.utils import read_mask as read_every_level
from PIL import Image
from torchvision.tv_tensors import Mask

LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
HALF = 127  # of 255 levels


def is_lossy(path: str | Path) -> bool:
    """Whether a file that can be opened has a format in which levels beside an edge change, whatever its name says."""
    with Image.open(path) as image:
        return image.format in LOSSY or image.info.get("compression") == "jpeg"  # a TIFF file may hold JPEG


def read_mask(path: str | Path, as_tensor: bool = False) -> Any:
    """A mask as anomalib reads it; of a file with losses only the bright half of the levels is a defect.

    ``anomalib.data.utils.read_mask`` takes every level but 0 for a defect, also the noise that JPEG leaves around it
    (https://github.com/open-edge-platform/anomalib/issues/785). A mask without a bright pixel has other levels, such as
    numbers of classes, and is left as it is.

    Args:
        path: Of the mask.
        as_tensor: For a tensor (H, W) of 0 and 1 instead of an array of levels.
    """
    levels = np.asarray(read_every_level(path))
    if not is_lossy(path) or levels.max() <= HALF:
        return read_every_level(path, as_tensor)
    defect = levels > HALF
    return Mask(torch.from_numpy(defect), dtype=torch.uint8) if as_tensor else np.where(defect, levels, 0)


def use_mask_reader() -> None:
    """Have anomalib's data sets of images read masks so, for all models alike."""
    for module in (anomalib.data.datasets.base.image, anomalib.data.datasets.image.mvtec_loco):
        vars(module)["read_mask"] = read_mask
