# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds and a normalisation that keeps the order of scores."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor

from anomalib_aprilgan.compat.lightning import unrepeated
from anomalib_aprilgan.components.arguments import check_arguments
from anomalib_aprilgan.components.calibration import describe_normal, log_normal_thresholds, normal_threshold
from anomalib_aprilgan.maps import NARROW
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)

# Exported models differ from PyTorch's by less than this.
SCORE_MARGIN, MAP_MARGIN = 1e-4, 1e-3
# Normalised values of what lies below and above the validation range. Floating-point numbers are denser near 0.
LOWER_TAIL, UPPER_TAIL = 1e-4, 0.1


class AprilGanPostProcessor(PostProcessor):
    """anomalib's post-processor with a normalisation that keeps the order of scores, and thresholds without defects.

    Normalised values rise strictly with raw ones: piecewise linear from the validation's minimum over the threshold
    (0.5) to the maximum, with a squashed tail on either side that does not reach 0 or 1. AUROC, F1-max, average
    precision and PRO are therefore those of the raw scores. Differs: anomalib's clamps all scores further than half the
    range from the threshold, which ties them.

    A raw score at the threshold counts as abnormal, as it does in the metric that finds the threshold.

    Image scores are known only at the end of a validation, when AprilGan calls ``calibrate``. A validation without
    normal images tells no threshold and leaves the theoretical range. One without defects tells no F1: its normal
    images alone give the threshold, see ``calibrate_on_normal``.

    Args:
        *args: anomalib's.
        false_positive_rate: Fraction of normal images, in [0, 1), that may be called abnormal.
        **kwargs: anomalib's.

    Raises:
        ValueError: If the rate is out of range.
    """

    def __init__(self, *args: Any, false_positive_rate: float = 0.01, **kwargs: Any) -> None:
        check_arguments({"false_positive_rate": false_positive_rate})
        super().__init__(*args, **kwargs)
        self.false_positive_rate = false_positive_rate
        self.is_calibrated = False
        self.has_tails = False
        self.calibrated_on = ""  # in words
        self.normal_scores: list[float] = []  # raw, of the normal images that the threshold was set with

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("false_positive_rate", "is_calibrated", "has_tails", "calibrated_on", "normal_scores")
        return (*super()._checkpoint_config_keys, *own)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what a checkpoint holds; one of an earlier version does not say what it was calibrated on."""
        super().load_checkpoint_config({"calibrated_on": "", "normal_scores": [], **config})

    @property
    def threshold_origin(self) -> str:
        """Where the threshold comes from, in words; empty: none is known, only the middle of the theoretical range."""
        if not self.enable_thresholding:
            return ""
        if self.image_sensitivity != 0.5:
            return f"`image_sensitivity` {self.image_sensitivity:g}"
        return (self.calibrated_on or "an older checkpoint") if self.is_calibrated else ""

    def assume_range(self, map_upper_bound: float) -> None:
        """Use the theoretical ranges, scores in [0, 1] and maps in [0, ``map_upper_bound``], until calibrated."""
        for low, threshold, high, maximum in (
            (self.image_min, self._image_threshold, self.image_max, 1.0),
            (self.pixel_min, self._pixel_threshold, self.pixel_max, map_upper_bound),
        ):
            low.fill_(0.0)
            threshold.fill_(maximum / 2)
            high.fill_(maximum)
        self.is_calibrated = self.has_tails = False  # nothing lies beyond the theoretical range
        self.calibrated_on, self.normal_scores = "", []

    def calibrate(self, scores: Tensor, maxima: Tensor, label: Tensor | None, map_upper_bound: float) -> None:
        """Set thresholds and ranges from all validation images, whose pixels were seen batch by batch.

        The image scores of the batches are replaced by these.

        Args:
            scores: Image scores (M,).
            maxima: Of the anomaly maps, (M,).
            label: 1 where abnormal, 0 where normal, (M,); None: not known.
            map_upper_bound: What no anomaly map exceeds.
        """
        for metric in (self._image_threshold_metric, self._image_min_max_metric):
            metric.reset()
        if label is None or label.any() != label.all():
            self._calibrate_on_all(scores, maxima, label)
            self._widen(map_upper_bound)
            return
        for metric in (self._pixel_threshold_metric, self._pixel_min_max_metric):
            metric.reset()
        if label.any():
            self.assume_range(map_upper_bound)
            logger.warning(
                "The %d validation images are all abnormal, which tells no threshold: give normal images too, or "
                "references. Until then scores are compared with the middle of their theoretical range.",
                len(scores),
            )
        else:
            self.calibrate_on_normal(scores, maxima, len(scores), map_upper_bound)

    def _calibrate_on_all(self, scores: Tensor, maxima: Tensor, label: Tensor | None) -> None:
        images: Any = SimpleNamespace(pred_score=scores, gt_label=label)
        if self.enable_thresholding:
            self._image_threshold_metric.update(images)
            if not self._pixel_threshold_metric.update_called and label is not None:
                # No masks: what the normal images' maps do not reach is abnormal.
                self._pixel_threshold.copy_(self._threshold_of_normal(maxima[label == 0], MAP_MARGIN))
        if self.enable_normalization:
            self._image_min_max_metric.update(images)
        unused: Any = None
        super().on_validation_epoch_end(unused, unused)
        self.is_calibrated, self.has_tails = label is not None, True
        self.calibrated_on = "" if label is None else f"{len(scores)} validation images"
        self.normal_scores = [] if label is None else scores[label == 0].tolist()

    def _widen(self, map_upper_bound: float) -> None:
        """Replace a range so narrow that it would magnify rounding errors by the theoretical one."""
        for name, low, high, maximum in (
            ("image scores", self.image_min, self.image_max, 1.0),
            ("anomaly maps", self.pixel_min, self.pixel_max, map_upper_bound),
        ):
            if high - low < NARROW * maximum:
                logger.warning(
                    "The %s of all validation images are too alike for a range: %.6g to %.6g.", name, low, high
                )
                low.fill_(0.0)
                high.fill_(maximum)

    def calibrate_on_normal(self, scores: Tensor, maxima: Tensor, n_images: int, map_upper_bound: float) -> None:
        """Set thresholds from normal images alone.

        Ranges are the theoretical ones: normal images do not tell how far defects reach.

        Args:
            scores: Image scores (M,).
            maxima: Of the anomaly maps, (M,).
            n_images: Number of the images, of which there may be several augmentations.
            map_upper_bound: What no anomaly map exceeds.
        """
        self.assume_range(map_upper_bound)
        self.is_calibrated = True
        self.calibrated_on = describe_normal(n_images, len(scores), self.false_positive_rate)
        self.normal_scores = scores.tolist()
        if not self.enable_thresholding:
            return
        self._image_threshold.copy_(self._threshold_of_normal(scores, SCORE_MARGIN))
        self._pixel_threshold.copy_(self._threshold_of_normal(maxima, MAP_MARGIN))
        n_flagged = int((scores >= self._image_threshold).sum())
        thresholds = (float(self._image_threshold), float(self._pixel_threshold))
        log_normal_thresholds(
            (n_images, len(scores), n_flagged), self.false_positive_rate, thresholds, self.enable_normalization
        )

    def _threshold_of_normal(self, values: Tensor, margin: float) -> Tensor:
        return normal_threshold(values, self.false_positive_rate, margin)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any = None,
        batch_idx: int = 0,
        dataloader_idx: int = 0,
        **kwargs: Any,
    ) -> None:
        """Update the statistics with the images that no other process has."""
        del batch
        own = unrepeated(outputs, trainer, batch_idx, dataloader_idx)
        if own is not None:
            super().on_validation_batch_end(trainer, pl_module, own, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Set thresholds and ranges, unless the model is an AprilGan: it completes its image scores first."""
        if not isinstance(getattr(pl_module, "model", None), AprilGanModel):
            super().on_validation_epoch_end(trainer, pl_module)
            self.has_tails = True

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalised scores and maps, and decisions about the raw ones."""
        output = super().forward(predictions)
        if self.enable_thresholding:
            label, mask = self._decide(output, predictions.pred_score, predictions.anomaly_map)
            output = output._replace(pred_label=label, pred_mask=mask)
        return output

    def post_process_batch(self, batch: Any) -> None:
        """Normalise scores and maps, and decide about the raw ones."""
        scores, maps, label, mask = batch.pred_score, batch.anomaly_map, batch.pred_label, batch.pred_mask
        super().post_process_batch(batch)
        if self.enable_thresholding:
            decided = self._decide(batch, scores, maps)
            batch.update(
                pred_label=decided[0] if label is None else label, pred_mask=decided[1] if mask is None else mask
            )

    def _decide(self, normalized: Any, scores: Tensor | None, maps: Tensor | None) -> tuple[Any, Any]:
        """Labels and masks by the raw values: rounding may lift a normalised one over the threshold."""
        label = _reaches(scores, self.image_threshold, self.image_sensitivity, normalized.pred_label)
        return label, _reaches(maps, self.pixel_threshold, self.pixel_sensitivity, normalized.pred_mask)

    def _normalize(  # type: ignore[override]  # it reads `has_tails`
        self, preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor
    ) -> Tensor | None:
        if preds is None:
            return None
        threshold = torch.where(threshold.isnan(), (norm_max + norm_min) / 2, threshold)
        low, high = torch.minimum(norm_min, threshold), torch.maximum(norm_max, threshold)
        lower, upper = (LOWER_TAIL, UPPER_TAIL) if self.has_tails else (0.0, 0.0)
        width = _positive(high - low)
        below = lower + (0.5 - lower) * (preds - low) / _positive(threshold - low)
        above = 0.5 + (0.5 - upper) * (preds - threshold) / _positive(high - threshold)
        # No piece may round to more than where the next one begins.
        below = torch.where(preds < low, lower / (1 + (low - preds) / width), below.clamp(max=0.5))
        above = torch.where(preds > high, 1 - upper / (1 + (preds - high) / width), above.clamp(max=1 - upper))
        normalized = torch.where(preds < threshold, below, above)
        return torch.where(norm_min.isnan() | norm_max.isnan(), preds, normalized)

    @staticmethod
    def _apply_threshold(preds: Tensor | None, threshold: Tensor) -> Tensor | None:
        # What is not a number is not known to be normal.
        return None if preds is None else ~(preds < threshold)


def _reaches(raw: Tensor | None, threshold: Tensor, sensitivity: float, by_normalized: Tensor | None) -> Tensor | None:
    """Whether raw values reach the threshold; what the normalised ones say where a sensitivity moves the threshold."""
    if raw is None or by_normalized is None or sensitivity != 0.5:
        return by_normalized
    # No torch.where: ONNX Runtime has none for truth values.
    return ~(raw < threshold) & (by_normalized | ~threshold.isnan())


def _positive(width: Tensor) -> Tensor:
    """The width, or 1 where a segment is empty."""
    return torch.where(width > 0, width, 1.0)
