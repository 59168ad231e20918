# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Exact metrics of rankings, and anomalib's pixel metrics AUROC, F1Max, AUPR and AUPRO with one state and one sort.

anomalib's four metrics each keep and sort all pixels. Here normal pixels are sorted alone, and everything is counted at
the scores of abnormal pixels, which are few: thresholds between two of them change no recall, so that none of the four
can gain or lose there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from anomalib.metrics.base import AnomalibMetric
from numpy.typing import NDArray
from skimage.measure import label
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Ranking:
    """The scores of normal and of abnormal samples, each in rising order, and the metrics that follow from these.

    Args:
        normal: Scores (L,), L > 0.
        abnormal: Scores (M,), M > 0.
        shares: What each abnormal pixel adds to the mean overlap of regions: 1 / (regions x pixels of its own region),
            (M,). None: samples are not pixels.
    """

    normal: Tensor
    abnormal: Tensor
    shares: Tensor | None = None

    @classmethod
    def of(cls, normal: Tensor, abnormal: Tensor, shares: Tensor | None = None) -> Ranking:
        """The ranking of samples in any order.

        Raises:
            ValueError: If a score is not a number.
        """
        if shares is None:
            return cls(_sorted(normal), _sorted(abnormal))
        abnormal, order = abnormal.sort()
        return cls(_sorted(normal), abnormal, shares[order])

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
        """The same with a score at least as high."""
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
            ValueError: Without ``shares``.
        """
        low, high = self.normal_above.double() / len(self.normal), self.normal_from.double() / len(self.normal)
        # A pixel counts from `low` on, rising to its full share at `high`; between the two lie ties.
        rising = (FPR_LIMIT - low).clamp(min=0).square() / (2 * (high - low)).clamp(min=torch.finfo(torch.double).tiny)
        area = torch.where(high <= FPR_LIMIT, FPR_LIMIT - (low + high) / 2, rising)
        return float((self._shares() * area).sum()) / FPR_LIMIT

    def rates_above(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """False positive rates and mean overlaps of regions where scores exceed thresholds (T,), each (T,).

        Raises:
            ValueError: Without ``shares``.
        """
        rate = 1 - torch.searchsorted(self.normal, thresholds, right=True).double() / len(self.normal)
        missed = torch.cat([self._shares().new_zeros(1), self._shares().cumsum(0)])
        overlap = missed[-1] - missed[torch.searchsorted(self.abnormal, thresholds, right=True)]
        return rate, overlap

    def _shares(self) -> Tensor:
        if self.shares is None:
            msg = "The overlap of regions needs `shares`: rank pixels with them."
            raise ValueError(msg)
        return self.shares


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
    # NumPy sorts without torch's indices, in a third of the time and memory.
    ordered = scores.clone()
    ordered.numpy().sort()
    return ordered


def _is_empty(state: list[Tensor] | Tensor) -> bool:
    """Whether a metric's state, which is one tensor once devices have exchanged theirs, holds nothing."""
    return len(state) == 0 if isinstance(state, Tensor) else not any(len(part) for part in state)


class PixelScores(Metric):
    """The scores of all pixels, normal and abnormal apart, and the sizes of the regions of the latter."""

    full_state_update = False
    normal: list[Tensor]
    abnormal: list[Tensor]
    sizes: list[Tensor]
    n_regions: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("normal", "abnormal", "sizes"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("n_regions", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, anomaly_map: Tensor, mask: Tensor) -> None:
        """Add anomaly maps and masks, which are not 0 where abnormal, (B, H, W) or (B, 1, H, W)."""
        defect = mask.reshape(-1, *mask.shape[-2:]) != 0
        anomaly_map = anomaly_map.reshape(defect.shape)
        self.normal.append(anomaly_map[~defect].float())
        self.abnormal.append(anomaly_map[defect].float())
        for image_mask in defect[defect.flatten(1).any(dim=1)]:
            sizes, n_regions = region_sizes(image_mask.cpu().numpy())
            # As floats, which torchmetrics takes the states of a process without defects for.
            self.sizes.append(torch.from_numpy(sizes).to(defect.device, torch.float32))
            self.n_regions += n_regions

    def compute(self) -> dict[str, Tensor] | None:
        """All four metrics in float32; None without normal or without abnormal pixels."""
        if _is_empty(self.normal) or _is_empty(self.abnormal):
            return None
        normal, abnormal = dim_zero_cat(self.normal), dim_zero_cat(self.abnormal)
        ranking = Ranking.of(normal, abnormal, shares=1 / (self.n_regions * dim_zero_cat(self.sizes).double()))
        values = {
            "AUROC": ranking.auroc(),
            "F1Max": ranking.f1_max(),
            "AUPR": ranking.average_precision(),
            "AUPRO": ranking.pro(),
        }
        return {name: torch.tensor(value, device=normal.device) for name, value in values.items()}


class _PixelMetric(AnomalibMetric, Metric):
    """One of the values of PixelScores, which several metrics may share.

    Args:
        scores: Those of another metric that is updated with the same batches; None: its own.
    """

    full_state_update = False
    default_fields = ("anomaly_map", "gt_mask")

    def __init__(self, scores: PixelScores | None = None, **kwargs: Any) -> None:
        super().__init__(prefix="pixel_", strict=False, **kwargs)
        self.scores = PixelScores() if scores is None else scores
        self.leads = scores is None

    def update(self, batch: Any) -> None:
        """Add a batch with anomaly maps and masks; one without masks is left out."""
        values = [getattr(batch, name) for name in self.fields]
        if self.leads and all(value is not None for value in values):
            self.scores.compute_on_cpu = self.compute_on_cpu
            self.scores.update(*values)

    def compute(self) -> Tensor | None:  # type: ignore[override]
        """The metric; None if it is not defined."""
        if not self.scores.update_called:
            return None
        values = self.scores.compute()
        return None if values is None else values[type(self).__name__]

    def reset(self) -> None:
        """Forget all pixels."""
        super().reset()
        self.scores.reset()


class AUROC(_PixelMetric):
    """Area under the receiver operating characteristic of all pixels."""


class F1Max(_PixelMetric):
    """Largest F1 score of all thresholds on pixels."""


class AUPR(_PixelMetric):
    """Average precision of all pixels, step-wise."""


class AUPRO(_PixelMetric):
    """Area under the per-region overlap up to a false positive rate of 0.3."""


def pixel_metrics() -> list[AnomalibMetric]:
    """AUROC, F1Max, AUPR and AUPRO of pixels with a shared state, to be updated together, as Evaluator does."""
    first = AUROC()
    return [first, *(metric(first.scores) for metric in (F1Max, AUPR, AUPRO))]
