# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's evaluator, which names the metrics that are not defined."""

from __future__ import annotations

import logging
from typing import Any

from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer

from anomalib_aprilgan.compat.lightning import unrepeated

logger = logging.getLogger(__name__)


class AprilGanEvaluator(Evaluator):
    """Logs the metrics that are defined, and names the others once."""

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
        """Log the metrics. Those that are None are absent."""
        metrics: Any = self.test_metrics
        undefined = [metric.name for metric in metrics if metric.compute() is None]
        if undefined:
            logger.warning(
                "Not computed, for want of normal or abnormal images, masks or decisions: %s", ", ".join(undefined)
            )
        super().on_test_epoch_end(trainer, pl_module)
