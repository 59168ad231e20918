# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's evaluator, silent about what the test images can't tell."""

from __future__ import annotations

import logging
from typing import Any

from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer
from torch.nn import ModuleList

from anomalib_aprilgan.data.sharding import unrepeated

logger = logging.getLogger(__name__)


class AprilGanEvaluator(Evaluator):
    """Logs the metrics of images where these are both normal and abnormal.

    Differs: anomalib logs 0 for an AUROC without defects or without normal images. Pixel metrics know it themselves.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kinds: set[bool] = set()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics with images that no other process has, and note which kinds of images there are."""
        batch = unrepeated(batch, trainer, batch_idx, dataloader_idx)
        if batch is None:
            return
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if batch.gt_label is not None:
            self._kinds |= {bool(kind) for kind in batch.gt_label}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics that are defined."""
        metrics: Any = self.test_metrics
        if not self._has_both(trainer):
            undefined = [metric for metric in metrics if "gt_label" in metric.fields]
            names = ", ".join(metric.name for metric in undefined)
            logger.warning("Not computed, for want of normal or of abnormal images: %s", names)
            for metric in undefined:
                metric.reset()
            self.test_metrics = ModuleList([metric for metric in metrics if "gt_label" not in metric.fields])
        super().on_test_epoch_end(trainer, pl_module)
        self.test_metrics = metrics
        self._kinds.clear()

    def _has_both(self, trainer: Trainer) -> bool:
        """Whether the test images, those of all devices together, are normal and abnormal."""
        decide = trainer.strategy.reduce_boolean_decision
        return all(decide(kind in self._kinds, all=False) for kind in (False, True))
