# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Rank-preserving normalisation, and the bounds that the few-shot image score is scaled with."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomalib_aprilgan.compat.lightning import unrepeated

if TYPE_CHECKING:
    from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)

# Exported models differ from PyTorch's by less than this.
SCORE_MARGIN, MAP_MARGIN = 1e-4, 1e-3


class ImageScores(Metric):
    """What the image scores of all validation images are made of: text scores, maxima of the maps, labels."""

    full_state_update = False
    text: list[Tensor]
    peak: list[Tensor]
    label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("text", "peak", "label"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, text: Tensor, peak: Tensor, label: Tensor | None) -> None:
        """Add text scores (B,), maxima (B,) and labels (B,), which may be unknown."""
        self.text.append(text)
        self.peak.append(peak)
        if label is not None:
            self.label.append(label.float())  # torchmetrics takes a process without images for one with floats

    def compute(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """All text scores, maxima and, if every image has one, labels."""
        text, peak = dim_zero_cat(self.text), dim_zero_cat(self.peak)
        label = dim_zero_cat(self.label) if len(self.label) else None  # a tensor once processes have been gathered
        return text, peak, label if label is not None and len(label) == len(text) else None


class AprilGanPostProcessor(PostProcessor):
    """anomalib's post-processor with a normalisation that keeps the order of scores.

    Piecewise linear from the validation's minimum over the threshold to the maximum, to 0, 0.5 and 1: strictly rising
    on the validation range, so that AUROC, F1-max, average precision and PRO are those of the raw scores. Differs:
    anomalib's clamps all scores further than half the range from the threshold, which ties them. Values beyond the
    validation range become 0 or 1 here too.

    A score at the threshold counts as abnormal, as it does in the metric that finds the threshold.

    Few-shot image scores depend on the range of the anomaly maps' maxima. It is known only when all validation images
    have been seen, so image scores are collected in parts and completed at the end of the epoch.

    Without defects no F1 tells the threshold: normal images alone give it, see ``calibrate``.

    Args:
        *args: anomalib's.
        false_positive_rate: Share of normal images, in [0, 1), that may be called abnormal.
        **kwargs: anomalib's.

    Raises:
        ValueError: If the rate is out of range.
    """

    def __init__(self, *args: Any, false_positive_rate: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= false_positive_rate < 1:
            msg = (
                f"`false_positive_rate` must be a share of the normal images, 0 <= rate < 1; got {false_positive_rate}."
            )
            raise ValueError(msg)
        self.false_positive_rate = false_positive_rate
        self._image_scores = ImageScores()

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "false_positive_rate")

    def assume_range(self, map_maximum: float) -> None:
        """Use the theoretical ranges, scores in [0, 1] and maps in [0, ``map_maximum``], until validated."""
        for low, threshold, high, maximum in (
            (self.image_min, self._image_threshold, self.image_max, 1.0),
            (self.pixel_min, self._pixel_threshold, self.pixel_max, map_maximum),
        ):
            low.fill_(0.0)
            threshold.fill_(maximum / 2)
            high.fill_(maximum)

    def observe(self, text: Tensor, peak: Tensor, label: Tensor | None) -> None:
        """Add a validation batch's text scores (B,), map maxima (B,) and labels (B,)."""
        self._image_scores.update(text, peak, label)

    def calibrate(self, model: AprilGanModel, text: Tensor, peak: Tensor) -> None:
        """Set thresholds from the text scores (M,) and map maxima (M,) of normal images.

        Ranges and bounds are the theoretical ones: normal images do not tell how far defects reach.
        """
        self.assume_range(model.map_maximum)
        if not self.enable_thresholding:
            return
        scores = model.image_score(text, peak)
        self._image_threshold.copy_(normal_threshold(scores, self.false_positive_rate, SCORE_MARGIN))
        self._pixel_threshold.copy_(normal_threshold(peak, self.false_positive_rate, MAP_MARGIN))
        logger.info(
            "Thresholds from %d normal images, of which %d are called abnormal (`false_positive_rate` %g): image score "
            "%.4f, anomaly map %.4f",
            len(scores),
            int((scores >= self._image_threshold).sum()),
            self.false_positive_rate,
            self._image_threshold,
            self._pixel_threshold,
        )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the pixel statistics; those of images wait for the end of the epoch."""
        del pl_module, batch
        own = unrepeated(outputs, trainer, batch_idx, dataloader_idx)
        if own is None:
            return
        if self.enable_thresholding:
            self._pixel_threshold_metric.update(own)
        if self.enable_normalization:
            self._pixel_min_max_metric.update(own)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the model's score bounds, then thresholds and ranges, from all validation images."""
        if self._image_scores.update_called:
            # torchmetrics makes numbers of tensors with one element, as those of a single image are.
            text, peak, label = self._image_scores.compute()
            text, peak = torch.atleast_1d(text), torch.atleast_1d(peak)
            label = None if label is None else torch.atleast_1d(label)
            self._image_scores.reset()
            if label is not None and not label.any():
                self._pixel_threshold_metric.reset()
                self._pixel_min_max_metric.reset()
                self.calibrate(pl_module.model, text, peak)
            else:
                self._complete_image_scores(pl_module.model, text, peak, label)
        super().on_validation_epoch_end(trainer, pl_module)

    def _complete_image_scores(self, model: AprilGanModel, text: Tensor, peak: Tensor, label: Tensor | None) -> None:
        model.set_score_bounds(peak)
        scores: Any = SimpleNamespace(pred_score=model.image_score(text, peak), gt_label=label)
        if self.enable_thresholding:
            self._image_threshold_metric.update(scores)
            if not self._pixel_threshold_metric.update_called and label is not None and not label.all():
                # No masks: what the normal images' maps do not reach is abnormal.
                normal = peak[label == 0]
                self._pixel_threshold.copy_(normal_threshold(normal, self.false_positive_rate, MAP_MARGIN))
        if self.enable_normalization:
            self._image_min_max_metric.update(scores)

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


def normal_threshold(scores: Tensor, false_positive_rate: float, margin: float) -> Tensor:
    """The threshold () that at most ``false_positive_rate`` of the normal scores (M,) reach.

    It lies by ``margin`` above the highest of the others, so that rounding does not flag that one. With fewer scores
    than 1 / rate, no score reaches it.
    """
    flagged = int(false_positive_rate * len(scores))
    return scores.sort(descending=True).values[flagged] + margin
