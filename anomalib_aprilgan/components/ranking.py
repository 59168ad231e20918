# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Exact metrics of rankings.

Normal samples are sorted alone, and everything is counted at the scores of abnormal samples, which are few among
pixels. Thresholds between two of these change no recall, so that no metric can gain or lose there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label
from torch import Tensor

FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Ranking:
    """The scores of normal and of abnormal samples, each in rising order, and their metrics.

    Args:
        normal: Scores (L,), L > 0.
        abnormal: Scores (M,), M > 0.
        overlaps: What each abnormal pixel adds to the mean overlap of regions: 1 / (regions x pixels of its own
            region), (M,). None: samples are not pixels.
    """

    normal: Tensor
    abnormal: Tensor
    overlaps: Tensor | None = None

    @classmethod
    def of(cls, normal: Tensor, abnormal: Tensor, overlaps: Tensor | None = None) -> Ranking:
        """The ranking of samples in any order.

        Args:
            normal: Scores (L,), L > 0. On the CPU they are sorted in place.
            abnormal: Scores (M,), M > 0; without ``overlaps`` likewise.
            overlaps: As in the class.

        Raises:
            ValueError: If a score is not a number.
        """
        if overlaps is None:
            return cls(_sorted(normal), _sorted(abnormal))
        abnormal, order = abnormal.sort()
        return cls(_sorted(normal), abnormal, overlaps[order])

    def __post_init__(self) -> None:
        if self.normal[-1].isnan() or self.abnormal[-1].isnan():  # sorting puts them last
            msg = "Some scores are not numbers (NaN), and have no rank: the model is broken."
            raise ValueError(msg)

    @cached_property
    def normal_above(self) -> Tensor:
        """Per abnormal sample, the number of normal ones with a higher score, (M,)."""
        return len(self.normal) - torch.searchsorted(self.normal, self.abnormal, right=True)

    @cached_property
    def normal_from(self) -> Tensor:
        """Per abnormal sample, the number of normal ones with a score at least as high, (M,)."""
        return len(self.normal) - torch.searchsorted(self.normal, self.abnormal)

    @cached_property
    def abnormal_from(self) -> Tensor:
        """Per abnormal sample, the number of abnormal ones with a score at least as high, itself included, (M,)."""
        return len(self.abnormal) - torch.searchsorted(self.abnormal, self.abnormal)

    def auroc(self) -> float:
        """Probability that an abnormal sample's score is higher than a normal one's; ties count one half."""
        return 1 - float((self.normal_above + self.normal_from).double().mean()) / (2 * len(self.normal))

    def f1_max(self) -> float:
        """The largest F1 score of all thresholds."""
        found = self.abnormal_from.double()
        return float((2 * found / (found + self.normal_from + len(self.abnormal))).max())

    def average_precision(self) -> float:
        """Mean, over the abnormal samples, of the precision with their scores as thresholds."""
        found = self.abnormal_from.double()
        return float((found / (found + self.normal_from)).mean())

    def pro(self) -> float:
        """Area under the curve of mean region overlap against false positive rates up to 0.3, as a part of 0.3.

        Raises:
            ValueError: Without ``overlaps``.
        """
        low, high = self.normal_above.double() / len(self.normal), self.normal_from.double() / len(self.normal)
        # A pixel counts from `low` on, rising to its full value at `high`; between the two lie ties.
        rising = (FPR_LIMIT - low).clamp(min=0).square() / (2 * (high - low)).clamp(min=torch.finfo(torch.double).tiny)
        area = torch.where(high <= FPR_LIMIT, FPR_LIMIT - (low + high) / 2, rising)
        return float((self._overlaps() * area).sum()) / FPR_LIMIT

    def rates_above(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """False positive rates and mean overlaps of regions where scores exceed thresholds (T,), each (T,).

        Raises:
            ValueError: Without ``overlaps``.
        """
        rate = 1 - torch.searchsorted(self.normal, thresholds, right=True).double() / len(self.normal)
        missed = torch.cat([self._overlaps().new_zeros(1), self._overlaps().cumsum(0)])
        overlap = missed[-1] - missed[torch.searchsorted(self.abnormal, thresholds, right=True)]
        return rate, overlap

    def _overlaps(self) -> Tensor:
        if self.overlaps is None:
            msg = "The overlap of regions needs `overlaps`: rank pixels with them."
            raise ValueError(msg)
        return self.overlaps


def region_sizes(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Of each abnormal pixel of a mask (H, W), the pixels of its region, (M,); and the number of regions.

    A region is a set of abnormal pixels that touch at edges or corners.
    """
    regions = label(mask, connectivity=2)
    sizes = np.bincount(regions.ravel())
    return sizes[regions[mask]], len(sizes) - 1


def _sorted(scores: Tensor) -> Tensor:
    if scores.is_cuda:
        return scores.sort().values
    scores.numpy().sort()  # without torch's indices, in a third of the time; in place, as pixels may fill the memory
    return scores
