# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of labelled or normal images, from which the post-processor takes thresholds and the model its bounds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomalib_aprilgan.data.references import contents, read_augmentations
from anomalib_aprilgan.maps import check_finite, map_maxima
from anomalib_aprilgan.memory import select_references
from anomalib_aprilgan.target import Target
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)


class ValidationScores(Metric):
    """What image scores and thresholds are made of: text scores, peaks and maxima of the maps, labels."""

    full_state_update = False
    text: list[Tensor]
    peaks: list[Tensor]
    maxima: list[Tensor]
    label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("text", "peaks", "maxima", "label"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, text: Tensor, peaks: Tensor, maxima: Tensor, label: Tensor | None) -> None:
        """Add text scores (B,), peaks and maxima of the anomaly maps (B,) and labels (B,), which may be unknown."""
        self.text.append(text)
        self.peaks.append(peaks)
        self.maxima.append(maxima)
        if label is not None:
            self.label.append(label.float())  # torchmetrics assumes float32 where a process has no images

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All text scores, peaks, maxima and, if every image has one, labels."""
        text, peaks, maxima = (dim_zero_cat(values) for values in (self.text, self.peaks, self.maxima))
        label = dim_zero_cat(self.label) if len(self.label) else None  # a tensor once processes have been gathered
        return text, peaks, maxima, label if label is not None and len(label) == len(text) else None

    def take(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What ``compute`` returns, as tensors with one dimension; then forget it."""
        # torchmetrics turns tensors with one element, those of a single image, into scalars.
        *values, label = self.compute()
        self.reset()
        text, peaks, maxima = torch.atleast_1d(*values)
        return text, peaks, maxima, None if label is None else torch.atleast_1d(label)


def held_out_scores(
    model: AprilGanModel, target: Target, transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, int]:
    """Image scores (M,) and map maxima (M,) of the references' augmentations, and the number of different references.

    Each is compared with the other references.

    Copies of one image, which a draw with replacement may give, are held out together.

    Args:
        model: That scores images for the target.
        target: With the paths of its references.
        transform: Makes a reference image (3, H, W) in [0, 1] the model's input.

    Raises:
        ValueError: If a file can't be read or a score is not finite.
    """
    paths = target.references.paths
    files = target.references.digests or contents(paths)
    if len(set(files)) == 1:
        logger.warning("A single reference is compared with itself: thresholds are too low. Use two or more.")
    parts = [_scores_without(model, target, files, file, transform) for file in dict.fromkeys(files)]
    text, peaks, maxima = (torch.cat(part) for part in zip(*parts, strict=True))
    return model.image_score(text, peaks, target), maxima, len(parts)


def _scores_without(
    model: AprilGanModel, target: Target, files: Sequence[str], held_out: str, transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Text scores, map peaks and maxima (V,) of a file's augmentations, compared with the references that differ."""
    others = [index for index, file in enumerate(files) if file != held_out] or list(range(len(files)))
    path = target.references.paths[files.index(held_out)]
    rest = replace(target, banks=select_references(target.banks, others, len(files)))
    with torch.no_grad():
        images = read_augmentations(path, transform).to(target.text_features.device)
        text, anomaly_maps = model.score_parts(model.encode(images), rest)
    maxima = map_maxima(anomaly_maps)
    check_finite(text + maxima, "scores", [path] * len(images))
    return text, model.map_peaks(anomaly_maps), maxima


def normal_threshold(scores: Tensor, false_positive_rate: float, margin: float) -> Tensor:
    """The threshold () that at most ``false_positive_rate`` of the normal scores (M,) reach.

    With fewer scores than 1 / rate, no score reaches it.

    Args:
        scores: Of normal images.
        false_positive_rate: Fraction in [0, 1).
        margin: Distance of the threshold from the highest score that is called normal, larger than rounding errors.
    """
    flagged = int(false_positive_rate * len(scores))
    return scores.sort(descending=True).values[flagged] + margin


def log_normal_thresholds(
    counts: tuple[int, int, int], false_positive_rate: float, thresholds: tuple[float, float], normalized: bool
) -> None:
    """Say what thresholds normal images gave, and warn if there are too few of them for the rate.

    Args:
        counts: Of different images, of scores, and of scores that are called abnormal.
        false_positive_rate: Fraction in [0, 1).
        thresholds: Of image scores and of anomaly maps, raw.
        normalized: Whether results are normalised.
    """
    n_images, n_scores, n_flagged = counts
    views = "" if n_scores == n_images else f"{n_images} references in {n_scores // n_images} augmented views each; "
    logger.info(
        "Thresholds from %d normal images, of which %d are called abnormal (%s`false_positive_rate` %g): image score "
        "%.4f, anomaly map %.4f%s",
        n_scores,
        n_flagged,
        views,
        false_positive_rate,
        *thresholds,
        " (raw values; in normalised ones, such as those of predictions.csv, both are 0.5)" if normalized else "",
    )
    if n_images < (needed := images_needed(false_positive_rate)):
        logger.warning(
            "%d normal images are too few for a `false_positive_rate` of %g, which takes %d: more good parts than "
            "that may be called abnormal.",
            n_images,
            false_positive_rate,
            needed,
        )


def describe_normal(n_images: int, n_scores: int, false_positive_rate: float) -> str:
    """What set a threshold, in words: normal images, or references, which have several scores each."""
    kind = "normal validation image" if n_images == n_scores else "reference"
    doubt = f" (too few for a rate of {false_positive_rate:g})" if n_images < images_needed(false_positive_rate) else ""
    return f"{n_images} {kind}{'s' * (n_images > 1)}{doubt}"


def images_needed(false_positive_rate: float) -> int:
    """The smallest number of images of which the rate is a whole image; 0 for the rate 0."""
    return math.ceil(1 / false_positive_rate - 1e-9) if false_positive_rate else 0
