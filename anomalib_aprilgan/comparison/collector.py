# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a model predicts of the test images, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Predictions:
    """Scores and anomaly maps of images, and the time of each batch.

    Args:
        mask_size: Height and width in pixels to which maps are resized (bilinear).
    """

    def __init__(self, mask_size: int) -> None:
        self.mask_size = mask_size
        self.paths: list[str] = []
        self.scores: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.times: list[tuple[int, float]] = []  # images, seconds

    def add(self, paths: Sequence[str], scores: Tensor, maps: Tensor | None, seconds: float) -> None:
        """Keep a batch.

        Args:
            paths: Of the images (B).
            scores: Raw image scores (B,) or (B, 1).
            maps: Anomaly maps (B, H, W) or (B, 1, H, W); None: the model makes none.
            seconds: What the batch took.
        """
        self.paths.extend(paths)
        self.scores.append(scores.detach().float().cpu().flatten())
        if maps is not None:
            self.maps.append(resize_maps(maps.detach().float(), self.mask_size).cpu())
        self.times.append((len(paths), seconds))

    @property
    def seconds_per_image(self) -> float:
        """Mean over all batches but the first, which warms up, unless it is the only one."""
        counted = self.times[1:] or self.times
        return sum(seconds for _, seconds in counted) / sum(images for images, _ in counted)

    def take_maps(self) -> NDArray | None:
        """All maps (B, H, W), which are forgotten here, so that they are not held twice; None without any."""
        maps = torch.cat(self.maps).numpy() if self.maps else None
        self.maps.clear()
        return maps


class PredictionCollector(Callback):
    """Keeps what a model predicts of all images.

    Args:
        predictions: Where to keep it.
    """

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self._start = 0.0

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        del trainer, args, kwargs
        self._start = now(pl_module.device)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Stop the clock, then keep the predictions."""
        del trainer, args, kwargs
        seconds = now(pl_module.device) - self._start
        self.predictions.add(outputs.image_path, outputs.pred_score, outputs.anomaly_map, seconds)


def resize_maps(maps: Tensor, size: int) -> Tensor:
    """Anomaly maps (B, H, W) or (B, 1, H, W) as (B, size, size)."""
    maps = maps.reshape(-1, 1, *maps.shape[-2:])
    if maps.shape[-2:] != (size, size):
        maps = F.interpolate(maps, size=(size, size), mode="bilinear", antialias=True)
    return maps[:, 0]


def now(device: torch.device) -> float:
    """The time in seconds when all that the device was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
