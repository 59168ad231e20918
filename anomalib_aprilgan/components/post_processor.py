# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds and a normalisation that keeps the order of scores."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor

from anomalib_aprilgan.compat.lightning import unrepeated
from anomalib_aprilgan.components.calibration import normal_threshold

logger = logging.getLogger(__name__)

# Exported models differ from PyTorch's by less than this.
SCORE_MARGIN, MAP_MARGIN = 1e-4, 1e-3


class AprilGanPostProcessor(PostProcessor):
    """anomalib's post-processor with a normalisation that keeps the order of scores.

    Piecewise linear from the validation's minimum over the threshold to the maximum, to 0, 0.5 and 1: strictly rising
    on the validation range, so that AUROC, F1-max, average precision and PRO are those of the raw scores. Differs:
    anomalib's clamps all scores further than half the range from the threshold, which ties them. Values beyond the
    validation range become 0 or 1 here too.

    A score at the threshold counts as abnormal, as it does in the metric that finds the threshold.

    Image scores are known only at the end of a validation, when AprilGan calls ``calibrate``. Without defects no F1
    tells the threshold: normal images alone give it, see ``calibrate_on_normal``.

    Args:
        *args: anomalib's.
        false_positive_rate: Fraction of normal images, in [0, 1), that may be called abnormal.
        **kwargs: anomalib's.

    Raises:
        ValueError: If the rate is out of range.
    """

    def __init__(self, *args: Any, false_positive_rate: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= false_positive_rate < 1:
            msg = (
                "`false_positive_rate` must be a fraction of the normal images, 0 <= rate < 1; got "
                f"{false_positive_rate}."
            )
            raise ValueError(msg)
        self.false_positive_rate = false_positive_rate
        self.is_calibrated = False

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "false_positive_rate", "is_calibrated")

    def assume_range(self, map_upper_bound: float) -> None:
        """Use the theoretical ranges, scores in [0, 1] and maps in [0, ``map_upper_bound``], until calibrated."""
        for low, threshold, high, maximum in (
            (self.image_min, self._image_threshold, self.image_max, 1.0),
            (self.pixel_min, self._pixel_threshold, self.pixel_max, map_upper_bound),
        ):
            low.fill_(0.0)
            threshold.fill_(maximum / 2)
            high.fill_(maximum)
        self.is_calibrated = False

    def calibrate(self, scores: Tensor, maxima: Tensor, label: Tensor | None, map_upper_bound: float) -> None:
        """Set thresholds and ranges from all validation images, whose pixels were seen batch by batch.

        Args:
            scores: Image scores (M,).
            maxima: Of the anomaly maps, (M,).
            label: 1 where abnormal, 0 where normal, (M,); None: not known.
            map_upper_bound: What no anomaly map exceeds.
        """
        if label is not None and not label.any():
            self._pixel_threshold_metric.reset()
            self._pixel_min_max_metric.reset()
            self.calibrate_on_normal(scores, maxima, map_upper_bound)
            return
        images: Any = SimpleNamespace(pred_score=scores, gt_label=label)
        if self.enable_thresholding:
            self._image_threshold_metric.update(images)
            if not self._pixel_threshold_metric.update_called and label is not None and not label.all():
                # No masks: what the normal images' maps do not reach is abnormal.
                self._pixel_threshold.copy_(self._threshold_of_normal(maxima[label == 0], MAP_MARGIN))
        if self.enable_normalization:
            self._image_min_max_metric.update(images)
        unused: Any = None
        super().on_validation_epoch_end(unused, unused)
        self.is_calibrated = label is not None

    def calibrate_on_normal(self, scores: Tensor, maxima: Tensor, map_upper_bound: float) -> None:
        """Set thresholds from the image scores (M,) and map maxima (M,) of normal images.

        Ranges are the theoretical ones: normal images do not tell how far defects reach.
        """
        self.assume_range(map_upper_bound)
        self.is_calibrated = True
        if not self.enable_thresholding:
            return
        self._image_threshold.copy_(self._threshold_of_normal(scores, SCORE_MARGIN))
        self._pixel_threshold.copy_(self._threshold_of_normal(maxima, MAP_MARGIN))
        logger.info(
            "Thresholds from %d normal images, of which %d are called abnormal (`false_positive_rate` %g): image score "
            "%.4f, anomaly map %.4f",
            len(scores),
            int((scores >= self._image_threshold).sum()),
            self.false_positive_rate,
            self._image_threshold,
            self._pixel_threshold,
        )

    def _threshold_of_normal(self, values: Tensor, margin: float) -> Tensor:
        return normal_threshold(values, self.false_positive_rate, margin)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the pixel statistics; those of images wait for ``calibrate``."""
        del pl_module, batch
        own = unrepeated(outputs, trainer, batch_idx, dataloader_idx)
        if own is None:
            return
        if self.enable_thresholding:
            self._pixel_threshold_metric.update(own)
        if self.enable_normalization:
            self._pixel_min_max_metric.update(own)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the model completes its image scores first, and then calls ``calibrate``."""

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        if preds is None:
            return None
        threshold = torch.where(threshold.isnan(), (norm_max + norm_min) / 2, threshold)
        below = 0.5 * (preds - norm_min) / _positive(threshold - norm_min)
        above = 0.5 + 0.5 * (preds - threshold) / _positive(norm_max - threshold)
        normalized = torch.where(preds < threshold, below, above).clamp(0, 1)
        return torch.where(norm_min.isnan() | norm_max.isnan(), preds, normalized)

    @staticmethod
    def _apply_threshold(preds: Tensor | None, threshold: Tensor) -> Tensor | None:
        # What is not a number is not known to be normal.
        return None if preds is None else ~(preds < threshold)


def _positive(width: Tensor) -> Tensor:
    """The width, or 1 where a segment is empty."""
    return torch.where(width > 0, width, 1.0)
