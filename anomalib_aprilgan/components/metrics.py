# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""AUROC, F1Score, F1Max, AUPR and AUPRO of images or pixels, as anomalib's evaluator asks for them.

The metrics of images have one common state, and so have the metrics of pixels, because each of anomalib's pixel
metrics keeps and sorts all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.metrics.base import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryF1Score
from torchmetrics.utilities import dim_zero_cat

from anomalib_aprilgan.compat.anomalib import image_metrics as metrics_of_anomalib
from anomalib_aprilgan.compat.torchmetrics import as_state, is_empty
from anomalib_aprilgan.components.ranking import Ranking, region_sizes


class ScoredImages(Metric):
    """The scores and labels of all images."""

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, score: Tensor, label: Tensor) -> None:
        """Add scores and labels, which are not 0 where abnormal, (B,)."""
        self.scores.append(as_state(score.flatten()))
        self.labels.append(as_state(label.flatten() != 0))

    def compute(self) -> dict[str, Tensor] | None:
        """AUROC, F1Max and AUPR; None without normal or without abnormal images."""
        if is_empty(self.scores):
            return None
        return metrics_of_anomalib(dim_zero_cat(self.scores), dim_zero_cat(self.labels).int())


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
        """Add anomaly maps and masks, both (B, H, W) or (B, 1, H, W); masks are not 0 where abnormal."""
        defect = mask.reshape(-1, *mask.shape[-2:]) != 0
        anomaly_map = anomaly_map.reshape(defect.shape)
        self.normal.append(anomaly_map[~defect].float())
        self.abnormal.append(anomaly_map[defect].float())
        for image_mask in defect[defect.flatten(1).any(dim=1)]:
            sizes, n_regions = region_sizes(image_mask.cpu().numpy())
            self.sizes.append(as_state(torch.from_numpy(sizes).to(defect.device)))
            self.n_regions += n_regions

    def compute(self) -> dict[str, Tensor] | None:
        """All four metrics in float32; None without normal or without abnormal pixels."""
        if is_empty(self.normal) or is_empty(self.abnormal):
            return None
        normal, abnormal = dim_zero_cat(self.normal), dim_zero_cat(self.abnormal)
        ranking = Ranking.of(normal, abnormal, overlaps=1 / (self.n_regions * dim_zero_cat(self.sizes).double()))
        values = {
            "AUROC": ranking.auroc(),
            "F1Max": ranking.f1_max(),
            "AUPR": ranking.average_precision(),
            "AUPRO": ranking.pro(),
        }
        return {name: torch.tensor(value, device=normal.device) for name, value in values.items()}


LEVELS: dict[str, tuple[type[Metric], Sequence[str]]] = {
    "image": (ScoredImages, ("pred_score", "gt_label")),
    "pixel": (PixelScores, ("anomaly_map", "gt_mask")),
}
DECISIONS = {"image": ("pred_label", "gt_label"), "pixel": ("pred_mask", "gt_mask")}


class RankMetric(AnomalibMetric, Metric):
    """One of the values of ScoredImages or PixelScores.

    Args:
        level: "image" or "pixel".
        scores: State of another metric that is updated with the same batches. None: a state of its own.
    """

    full_state_update = False

    def __init__(self, level: str, scores: Metric | None = None) -> None:
        state, fields = LEVELS[level]
        super().__init__(fields, prefix=f"{level}_", strict=False)
        self.scores = state() if scores is None else scores
        self.leads = scores is None

    def update(self, batch: Any) -> None:
        """Add a batch with scores and labels, or maps and masks. A batch without them is left out."""
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
        """Forget all images."""
        super().reset()
        self.scores.reset()


class AUROC(RankMetric):
    """Area under the receiver operating characteristic."""


class F1Max(RankMetric):
    """Largest F1 score of all thresholds."""


class AUPR(RankMetric):
    """Average precision, step-wise."""


class AUPRO(RankMetric):
    """Area under the per-region overlap of pixels up to a false positive rate of 0.3."""


class F1Score(AnomalibMetric, BinaryF1Score):
    """F1 score of the decisions about images or pixels.

    Differs: anomalib's is 0 where there is nothing abnormal, and fails without decisions.

    Args:
        level: "image" or "pixel".
    """

    def __init__(self, level: str) -> None:
        super().__init__(DECISIONS[level], prefix=f"{level}_", strict=False, validate_args=False)

    def update(self, batch: Any) -> None:  # type: ignore[override]
        """Add a batch with decisions and labels or masks. A batch without them is left out."""
        decided, truth = (getattr(batch, name) for name in self.fields)
        if decided is not None and truth is not None:
            BinaryF1Score.update(self, decided.flatten() != 0, truth.flatten() != 0)

    def compute(self) -> Tensor | None:  # type: ignore[override]
        """The F1 score; None without normal or without abnormal images or pixels."""
        counts: Any = self
        is_defined = counts.tp + counts.fn > 0 and counts.tn + counts.fp > 0
        return BinaryF1Score.compute(self) if is_defined else None


def default_metrics() -> list[AnomalibMetric]:
    """All metrics of images and pixels, among them those of anomalib's models under the same names."""
    return [*image_metrics(), F1Score("image"), *pixel_metrics(), F1Score("pixel")]


def image_metrics() -> list[AnomalibMetric]:
    """AUROC, F1Max and AUPR of images with one common state, to be updated together."""
    return _with_common_state("image", AUROC, F1Max, AUPR)


def pixel_metrics() -> list[AnomalibMetric]:
    """AUROC, F1Max, AUPR and AUPRO of pixels with one common state, to be updated together."""
    return _with_common_state("pixel", AUROC, F1Max, AUPR, AUPRO)


def _with_common_state(level: str, first: type[RankMetric], *others: type[RankMetric]) -> list[AnomalibMetric]:
    leading = first(level)
    return [leading, *(other(level, leading.scores) for other in others)]
