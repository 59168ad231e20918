# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""8-bit models of OpenVINO: made by nncf, and compared with the float32 model before they are written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_aprilgan.components.calibration_images import CheckedImage
from anomalib_aprilgan.components.export_runtimes import Outputs, run_openvino
from anomalib_aprilgan.components.ranking import Ranking

logger = logging.getLogger(__name__)

# Names of the encoder's operations in exported files begin so.
ENCODER_MARK = "encoder/"
# What becomes 8-bit, and only in the encoder: softmax(100 x cosine), the memory search and resizing stand no rounding.
OPERATIONS = {"MatMul", "Convolution", "GroupConvolution"}
# What an 8-bit model must keep. Decisions are compared where the normalised score is further than this from 0.5.
AWAY, AGREEING, AUROC_LOSS, CORRELATION = 0.05, 0.99, 0.01, 0.98


def quantized(model: Any, images: Sequence[Tensor], weights_only: bool) -> Any:
    """An 8-bit copy of a model of OpenVINO, whose encoder alone is 8-bit.

    Args:
        model: Exported from AprilGan.
        images: Normal images (1, 3, H, W) in [0, 1], to find the ranges of what the encoder computes.
        weights_only: Keep computing in float32.

    Raises:
        ValueError: If the model tells nothing of its encoder.
    """
    import nncf  # noqa: PLC0415  # an extra

    nncf.set_log_level(logging.ERROR)
    types = {each.get_type_name() for each in model.get_ops()}
    names = [each.get_friendly_name() for each in model.get_ops() if each.get_type_name() in OPERATIONS]
    float_names = [name for name in names if not name.startswith(ENCODER_MARK)]
    if float_names == names:
        msg = "The model has no operations that are known as its encoder's: export it without `onnx_kwargs`."
        raise ValueError(msg)
    if weights_only:
        return nncf.compress_weights(model.clone(), ignored_scope=nncf.IgnoredScope(names=float_names))
    others = nncf.IgnoredScope(names=float_names, types=sorted(types - OPERATIONS), validate=False)
    data = nncf.Dataset([image.numpy() for image in images])
    kind = nncf.ModelType.TRANSFORMER
    return nncf.quantize(model, data, model_type=kind, subset_size=len(images), ignored_scope=others)


@dataclass(frozen=True)
class Agreement:
    """An 8-bit model beside the float32 model on the same M images.

    Args:
        scores: Raw scores (2, M), float32's first.
        maps: Raw maps (2, M, H, W).
        labels: Decisions (2, M).
        normalized: Normalised scores (M,) of the float32 model.
        masks: 1 where abnormal, 0 where normal, (M, H, W), NaN where it is not known.
    """

    scores: Tensor
    maps: Tensor
    labels: Tensor
    normalized: Tensor
    masks: Tensor

    @classmethod
    def of(cls, models: Sequence[Any], images: Sequence[CheckedImage]) -> Agreement:
        """Both models of OpenVINO, float32's first, on all images."""
        runs = [run_openvino(model) for model in models]
        outputs = [[run(each.image) for each in images] for run in runs]
        scores, maps, labels = (_stacked(outputs, name) for name in ("raw_score", "raw_map", "pred_label"))
        unknown = torch.full(maps.shape[-2:], torch.nan)
        masks = torch.stack([unknown if each.mask is None else each.mask.float() for each in images])
        return cls(scores, maps, labels, _stacked(outputs, "pred_score")[0], masks)

    @property
    def is_away(self) -> Tensor:
        """Whether each image is away from the threshold, (M,)."""
        return (self.normalized - 0.5).abs() > AWAY

    @property
    def agreeing(self) -> Tensor:
        """Whether decisions agree, of images away from the threshold."""
        return (self.labels[0] == self.labels[1])[self.is_away]

    def aurocs(self) -> list[float] | None:
        """Pixel AUROC of each model; None: there are not both normal and abnormal pixels."""
        normal, abnormal = self.masks == 0, self.masks == 1
        if not (normal.any() and abnormal.any()):
            return None
        return [Ranking.of(maps[normal], maps[abnormal]).auroc() for maps in self.maps]

    def correlation(self) -> float:
        """Of the pixels of both models' maps."""
        return float(np.corrcoef(self.maps.flatten(1).numpy())[0, 1])

    def faults(self) -> list[str]:
        """What the 8-bit model does not keep, in words."""
        found, aurocs = [], self.aurocs()
        if not len(self.agreeing):
            found.append("no score is away from the threshold, so that decisions tell nothing")
        elif self.agreeing.float().mean() < AGREEING:
            found.append(f"less than {AGREEING:.0%} of decisions agree")
        if aurocs and not abs(aurocs[0] - aurocs[1]) <= AUROC_LOSS:
            found.append(f"pixel AUROC differs by more than {AUROC_LOSS}")
        if not aurocs and not self.correlation() >= CORRELATION:
            found.append(f"maps correlate by less than {CORRELATION}")
        return found

    def __str__(self) -> str:
        score, raw_map = (abs(each[0] - each[1]) for each in (self.scores, self.maps))
        aurocs = self.aurocs()
        return (
            f"on {len(self.normalized)} images raw scores differ by up to {score.max():.2g} (mean {score.mean():.2g}), "
            f"raw maps by up to {raw_map.max():.2g} (mean {raw_map.mean():.2g}, correlation {self.correlation():.4f}); "
            f"{int(self.agreeing.sum())} of {len(self.agreeing)} decisions away from the threshold agree; pixel AUROC "
            + ("is not known (no masks)" if aurocs is None else f"{aurocs[1]:.4f}, of float32 {aurocs[0]:.4f}")
        )


def check_agreement(models: Sequence[Any], images: Sequence[CheckedImage]) -> None:
    """Log what an 8-bit model loses.

    Args:
        models: Of OpenVINO: float32, 8-bit.
        images: To run both on.

    Raises:
        ValueError: If it is too much.
    """
    agreement = Agreement.of(models, images)
    if faults := agreement.faults():
        msg = (
            f"The 8-bit model is not written: {'; '.join(faults)}. Beside float32, {agreement}. Export without "
            "`compression_type` or with FP16, or calibrate on more images: more references, or a data module."
        )
        raise ValueError(msg)
    logger.info("8 bits beside float32: %s", agreement)


def _stacked(outputs: Sequence[Sequence[Outputs]], name: str) -> Tensor:
    """One output (1, ...) of each model and image, (2, M, ...)."""
    return torch.stack([torch.cat([torch.as_tensor(each[name]) for each in model]) for model in outputs])
