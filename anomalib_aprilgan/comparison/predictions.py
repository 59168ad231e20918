# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a model predicts for the test images of a category, and what is true of them."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName, read_mask
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan.components.pre_processor import resize_mask
from anomalib_aprilgan.data.images import read_rgb

PICTURE_SIDE = 256
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Collector(Callback):
    """Keeps scores and maps of all predicted images, at one size, and the time that predicting them takes.

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
        _wait_for(pl_module.device)
        self._start = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Stop the clock, then keep the predictions."""
        del trainer, args, kwargs
        _wait_for(pl_module.device)
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


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Truth:
    """Labels and masks of the test images.

    Args:
        labels: True where abnormal (B,).
        masks: True where abnormal (B, H, W); None if an abnormal image has none.
    """

    labels: NDArray
    masks: NDArray | None


def read_truth(datamodule: AnomalibDataModule, paths: Sequence[str], mask_size: int) -> Truth:
    """Labels and masks of the images at ``paths``, from the data set itself and not from what a model resized."""
    samples = datamodule.test_data.samples
    rows = samples.set_index(samples.image_path.astype(str)).loc[list(paths)]
    labels = (rows.label_index == LabelName.ABNORMAL).to_numpy()
    files = rows.mask_path if "mask_path" in rows else [""] * len(rows)
    if not all(_is_file(path) for path, abnormal in zip(files, labels, strict=True) if abnormal):
        return Truth(labels, None)
    masks = [_read_mask(path, mask_size) if abnormal else None for path, abnormal in zip(files, labels, strict=True)]
    blank = np.zeros((mask_size, mask_size), dtype=bool)
    return Truth(labels, np.stack([blank if mask is None else mask for mask in masks]))


def _is_file(path: object) -> bool:
    return isinstance(path, str | Path) and Path(path).is_file()


def _read_mask(path: str | Path, size: int) -> NDArray:
    """The mask (H, W), resized as the authors do it."""
    return resize_mask(torch.as_tensor(read_mask(path, as_tensor=True)), (size, size)).numpy() != 0


def choose_pictures(labels: NDArray, count: int) -> list[int]:
    """Indices of ``count`` test images for figures: one normal, the rest abnormal, evenly spread over their list."""
    normal, abnormal = np.flatnonzero(~labels), np.flatnonzero(labels)
    n_normal = min(1, len(normal), count)
    steps = np.linspace(0, len(abnormal) - 1, min(count - n_normal, len(abnormal))).round().astype(int)
    return [*normal[:n_normal].tolist(), *abnormal[steps].tolist()]


def small_pictures(collector: Collector, maps: NDArray, truth: Truth, count: int) -> dict[str, NDArray]:
    """Images, masks and maps of a few test images at the size of a figure, and the range of all maps."""
    chosen = choose_pictures(truth.labels, count)
    paths = [collector.paths[index] for index in chosen]
    masks = np.zeros((len(chosen), 1, 1), dtype=bool) if truth.masks is None else truth.masks[chosen]
    return {
        "images": np.stack([_small_image(path) for path in paths]),
        "masks": masks,
        "maps": resize_maps(torch.from_numpy(maps[chosen]), min(PICTURE_SIDE, maps.shape[-1]))
        .numpy()
        .astype(np.float16),
        "range": np.asarray([maps.min(), maps.max()], dtype=np.float32),
    }


def _small_image(path: str) -> NDArray:
    image = Image.fromarray((read_rgb(path).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    return np.asarray(image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC))


class PeakMemory:
    """The most memory used since it was made: of the GPU, or of the whole process where there is none."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind = "cuda" if device.type == "cuda" else "process"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            RESET.write_text("5")  # Linux: the high-water mark starts anew
        except OSError:
            self.kind = "process since its start"

    def mebibytes(self) -> float | None:
        """Peak memory in MiB; None where the system does not tell it (Windows)."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.kind == "process":
            lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
            return int(lines["VmHWM"].split()[0]) / 2**10
        if importlib.util.find_spec("resource") is None:
            return None
        import resource  # noqa: PLC0415

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
