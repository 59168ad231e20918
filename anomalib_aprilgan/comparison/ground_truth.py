# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Labels and masks of the test images, read from the data set and not from what a model resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.metrics import overlap_weights
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

    @property
    def has_both_kinds(self) -> bool:
        """Whether there are normal and abnormal images."""
        return bool(self.labels.any() and not self.labels.all())

    @cached_property
    def weights(self) -> NDArray | None:
        """What each abnormal pixel adds to the mean region overlap (M,); the same for all runs, so computed once."""
        return None if self.masks is None else overlap_weights(self.masks)


def read_ground_truth(datamodule: AnomalibDataModule, paths: Sequence[str], mask_size: int) -> GroundTruth:
    """Return labels and masks of test images, masks resized as the authors do it; those of the last call at once.

    Args:
        datamodule: One that is set up.
        paths: Of test images, in the order of the predictions.
        mask_size: Height and width of the masks in pixels.

    Raises:
        KeyError: If a path is not that of a test image.
    """
    samples = datamodule.test_data.samples
    rows = samples.set_index(samples.image_path.astype(str)).loc[list(paths)]
    labels = (rows.label_index == LabelName.ABNORMAL).tolist()
    files = list(rows.mask_path) if "mask_path" in rows else [""] * len(rows)
    masks = [_mask_state(file) if abnormal else () for file, abnormal in zip(files, labels, strict=True)]
    return _read(tuple(labels), tuple(masks), mask_size)


def _mask_state(value: object) -> tuple[tuple[str, int], ...]:
    """Path and time of change of each file of an image's mask."""
    return tuple((path, Path(path).stat().st_mtime_ns) for path in mask_files(value))


@lru_cache(maxsize=1)
def _read(labels: tuple[bool, ...], files: tuple[tuple[tuple[str, int], ...], ...], mask_size: int) -> GroundTruth:
    masks = np.zeros((len(labels), mask_size, mask_size), dtype=bool)
    for index in np.flatnonzero(labels):
        if not files[index]:
            return GroundTruth(np.asarray(labels), None)
        mask = read_masks([path for path, _ in files[index]])
        masks[index] = resize_mask(mask, (mask_size, mask_size)).numpy() != 0
    return GroundTruth(np.asarray(labels), masks)
