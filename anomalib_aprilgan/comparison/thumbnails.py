# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Thumbnails: a few test images of a run with their masks and anomaly maps, kept on disk for figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from anomalib_aprilgan.comparison.collector import resize_maps
from anomalib_aprilgan.comparison.grid import Job, slug, unique_slug
from anomalib_aprilgan.comparison.ground_truth import GroundTruth
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.safe_io import write_whole

logger = logging.getLogger(__name__)

FOLDER = "pictures"  # in the output of a comparison; figures of older ones are drawn from it too
SIDE = 256  # pixels
NAMES = ("images", "masks", "maps", "range")
Thumbnails = dict[str, NDArray]


def make_thumbnails(paths: Sequence[str], maps: NDArray, truth: GroundTruth, count: int) -> Thumbnails:
    """Return "images", "masks" and "maps" of a few test images, and the "range" (2,) of all maps.

    Args:
        paths: Of all test images (B).
        maps: Their anomaly maps (B, H, W).
        truth: Their labels and masks.
        count: Number of thumbnails T: images become (T, 256, 256, 3) and maps at most (T, 256, 256).
    """
    chosen = choose_images(truth.labels, count)
    masks = np.zeros((len(chosen), 1, 1), dtype=bool) if truth.masks is None else truth.masks[chosen]
    small_maps = resize_maps(torch.from_numpy(maps[chosen]), min(SIDE, maps.shape[-1]))
    return {
        "images": np.stack([_read_small(paths[index]) for index in chosen]),
        "masks": masks,
        "maps": small_maps.numpy().astype(np.float16),
        "range": np.asarray([maps.min(), maps.max()], dtype=np.float32),
    }


def choose_images(labels: NDArray, count: int) -> list[int]:
    """Indices of ``count`` test images: one normal, the rest abnormal, evenly spread over their list."""
    normal, abnormal = np.flatnonzero(~labels), np.flatnonzero(labels)
    n_normal = min(1, len(normal), count)
    steps = np.linspace(0, len(abnormal) - 1, min(count - n_normal, len(abnormal))).round().astype(int)
    return [*normal[:n_normal].tolist(), *abnormal[steps].tolist()]


def _read_small(path: str) -> NDArray:
    image = Image.fromarray((read_rgb(path).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def thumbnails_path(output: Path, job: Job) -> Path:
    """The file of a run's thumbnails; other runs have others, however alike the names are."""
    return output / FOLDER / f"{unique_slug(*map(str, astuple(job)))}.npz"


def old_thumbnails_path(output: Path, job: Job) -> Path:
    """The file of a run's thumbnails in an output of before, which runs with like names may share."""
    return output / FOLDER / f"{'__'.join(slug(str(part)) for part in astuple(job))}.npz"


def save_thumbnails(path: Path, thumbnails: Thumbnails) -> None:
    """Write thumbnails, and the folder if there is none."""
    write_whole(path, lambda file: np.savez_compressed(file, **thumbnails))  # type: ignore[arg-type]


def read_thumbnails(path: Path) -> Thumbnails | None:
    """The thumbnails in a file; None if there is no such file, or if it can't be read, which is logged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in NAMES}
    except Exception as error:  # noqa: BLE001  # NumPy raises errors of many kinds for files that are damaged or not its own
        logger.warning(
            "%s can't be read and is left out of the figures (%s: %s). To make it again, remove the line of its run "
            "from results.jsonl and start the comparison.",
            path,
            type(error).__name__,
            error,
        )
        return None
