# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's image metrics where they are defined, and its evaluator, which says which ones are not."""

from __future__ import annotations

import logging
from typing import Any

import anomalib.metrics
from anomalib.metrics import Evaluator
from anomalib.metrics.base import AnomalibMetric
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, tensor, zeros_like
from torchmetrics import Metric

from anomalib_aprilgan.components.distributed_evaluation import unrepeated

logger = logging.getLogger(__name__)


class _NeedsBothKinds(Metric):
    """A metric of images that is None where there are no normal or no abnormal ones.

    Differs: anomalib gives 0 for an AUROC without defects or without normal images.
    """

    n_normal: Tensor
    n_abnormal: Tensor

    def __init__(self) -> None:
        super().__init__(fields=["pred_score", "gt_label"], prefix="image_")
        for name in ("n_normal", "n_abnormal"):
            self.add_state(name, default=tensor(0), dist_reduce_fx="sum")

    def update(self, batch: Any) -> None:
        """Add the scores and labels of a batch."""
        super().update(batch)  # type: ignore[safe-super]  # that of anomalib, which comes next among the bases
        # Not in place: inference mode's tensors could not be changed outside of it.
        self.n_abnormal = self.n_abnormal + (batch.gt_label != 0).sum().to(self.n_abnormal.device)
        self.n_normal = self.n_normal + (batch.gt_label == 0).sum().to(self.n_normal.device)

    def compute(self) -> Any:
        """The metric; None if it is not defined."""
        return super().compute() if self.n_normal and self.n_abnormal else None  # type: ignore[safe-super]  # likewise

    def reset(self) -> None:
        """Forget all images; anomalib's F1Max forgets its own states only."""
        super().reset()
        self.n_normal, self.n_abnormal = zeros_like(self.n_normal), zeros_like(self.n_abnormal)


class AUROC(_NeedsBothKinds, anomalib.metrics.AUROC):  # type: ignore[misc]  # its update takes a batch
    """Area under the receiver operating characteristic of all images."""


class F1Max(_NeedsBothKinds, anomalib.metrics.F1Max):  # type: ignore[misc]  # its update takes a batch
    """Largest F1 score of all thresholds on images."""


class AUPR(_NeedsBothKinds, anomalib.metrics.AUPR):  # type: ignore[misc]  # its update takes a batch
    """Average precision of all images."""


def image_metrics() -> list[AnomalibMetric]:
    """AUROC, F1Max and AUPR of images."""
    return [AUROC(), F1Max(), AUPR()]


class AprilGanEvaluator(Evaluator):
    """Logs the metrics that are defined, and says once which are not."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics with the images that no other process has."""
        own = unrepeated(batch, trainer, batch_idx, dataloader_idx)
        if own is not None:
            super().on_test_batch_end(trainer, pl_module, outputs, own, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics, which are absent where they are None."""
        metrics: Any = self.test_metrics
        undefined = [metric.name for metric in metrics if metric.compute() is None]
        if undefined:
            logger.warning("Not computed, for want of normal or of abnormal images or masks: %s", ", ".join(undefined))
        super().on_test_epoch_end(trainer, pl_module)
