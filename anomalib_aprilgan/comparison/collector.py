# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A callback that keeps what a model predicts and how long it takes."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F


class PredictionCollector(Callback):
    """Keeps scores and anomaly maps of all predicted images, and the time of each batch.

    Args:
        mask_size: Height and width in pixels to which maps are resized (bilinear).
    """

    def __init__(self, mask_size: int) -> None:
        self.mask_size = mask_size
        self.paths: list[str] = []
        self.scores: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.times: list[tuple[int, float]] = []  # images, seconds
        self._start = 0.0

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        del trainer, args, kwargs
        _synchronize(pl_module.device)
        self._start = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Stop the clock, then keep the predictions."""
        del trainer, args, kwargs
        _synchronize(pl_module.device)
        self.times.append((len(outputs.image_path), time.perf_counter() - self._start))
        self.paths.extend(outputs.image_path)
        self.scores.append(outputs.pred_score.detach().float().cpu().flatten())
        if outputs.anomaly_map is not None:
            self.maps.append(resize_maps(outputs.anomaly_map.detach().float(), self.mask_size).cpu())

    @property
    def seconds_per_image(self) -> float:
        """Mean over all batches but the first, which warms up, unless it is the only one."""
        counted = self.times[1:] or self.times
        return sum(seconds for _, seconds in counted) / sum(images for images, _ in counted)


def resize_maps(maps: Tensor, size: int) -> Tensor:
    """Anomaly maps (B, H, W) or (B, 1, H, W) as (B, size, size)."""
    maps = maps.reshape(-1, 1, *maps.shape[-2:])
    if maps.shape[-2:] != (size, size):
        maps = F.interpolate(maps, size=(size, size), mode="bilinear", antialias=True)
    return maps[:, 0]


def _synchronize(device: torch.device) -> None:
    """Wait for the GPU, so that the clock measures its work too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
