# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Labels and masks of the test images, read from the data set and not from what a model resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from numpy.typing import NDArray

from anomalib_aprilgan.components.pre_processor import resize_mask
from anomalib_aprilgan.data.masks import mask_files, read_masks


@dataclass(frozen=True)
class GroundTruth:
    """Labels and masks of the test images.

    Args:
        labels: True where abnormal (B,).
        masks: True where abnormal (B, H, W); None if an abnormal image has no mask.
    """

    labels: NDArray
    masks: NDArray | None


def read_ground_truth(datamodule: AnomalibDataModule, paths: Sequence[str], mask_size: int) -> GroundTruth:
    """Return labels and masks of test images, masks resized as the authors do it.

    Args:
        datamodule: One that is set up.
        paths: Of test images, in the order of the predictions.
        mask_size: Height and width of the masks in pixels.

    Raises:
        KeyError: If a path is not that of a test image.
    """
    samples = datamodule.test_data.samples
    rows = samples.set_index(samples.image_path.astype(str)).loc[list(paths)]
    labels = (rows.label_index == LabelName.ABNORMAL).to_numpy()
    files = list(rows.mask_path) if "mask_path" in rows else [""] * len(rows)
    masks = np.zeros((len(rows), mask_size, mask_size), dtype=bool)
    for index in np.flatnonzero(labels):
        if not mask_files(files[index]):
            return GroundTruth(labels, None)
        masks[index] = resize_mask(read_masks(files[index]), (mask_size, mask_size)).numpy() != 0
    return GroundTruth(labels, masks)
