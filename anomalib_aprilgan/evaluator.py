# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's evaluator, silent about what the test images can't tell."""

from __future__ import annotations

import logging
from typing import Any

from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer
from torch.nn import ModuleList

logger = logging.getLogger(__name__)

TRUTHS = ("gt_label", "gt_mask")


class AprilGanEvaluator(Evaluator):
    """Logs the metrics of images or pixels that are both normal and abnormal.

    Differs: anomalib logs 0 for an AUROC without defects or without normal images.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: set[tuple[str, bool]] = set()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Update the metrics, and note which kinds of images and pixels there are."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)
        for truth in TRUTHS:
            target = getattr(batch, truth, None)
            if target is not None:
                self._seen |= {(truth, bool(kind)) for kind in target.unique()}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics that are defined."""
        metrics: Any = self.test_metrics
        known = {truth: self._has_both(truth, trainer) for truth in TRUTHS}
        undefined = [metric for metric in metrics if not all(known.get(field, True) for field in metric.fields)]
        if undefined:
            names = ", ".join(metric.name for metric in undefined)
            logger.warning("Not computed, for want of defects, normal images or masks: %s", names)
        for metric in undefined:
            metric.reset()
        left_out = {metric.name for metric in undefined}
        self.test_metrics = ModuleList([metric for metric in metrics if metric.name not in left_out])
        super().on_test_epoch_end(trainer, pl_module)
        self.test_metrics = metrics
        self._seen.clear()

    def _has_both(self, truth: str, trainer: Trainer) -> bool:
        """Whether the test images or their pixels, those of all devices together, are normal and abnormal."""
        decide = trainer.strategy.reduce_boolean_decision
        return all(decide((truth, kind) in self._seen, all=False) for kind in (False, True))
