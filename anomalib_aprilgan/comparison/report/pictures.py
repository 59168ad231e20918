# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The most doubtful images, with their visualizations where the run has kept them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_aprilgan.comparison.report.scores import Scores
from anomalib_aprilgan.components.run_folder import IMAGES
from anomalib_aprilgan.data.images import read_rgb

COUNT = 10
SIDE = 480  # pixels
VERDICTS = {(True, 0): "false alarm", (False, 1): "escape", (True, 1): "bad", (False, 0): "good"}


def doubtful(scores: Scores) -> dict[str, list[tuple[bytes, str]]]:
    """PNG and caption of the images whose scores are nearest to the threshold, of each side; none without one."""
    if scores.threshold is None:
        return {}
    away = scores.values - scores.threshold
    order = np.argsort(np.abs(away), kind="stable")
    sides = {"called bad": order[away[order] >= 0], "called good": order[away[order] < 0]}
    known = sorted((scores.table.parent / IMAGES).rglob("*.png"))
    return {
        f"Most doubtful of the images {side}": [
            (picture(scores.paths[index], known), caption(scores, index)) for index in chosen[:COUNT]
        ]
        for side, chosen in sides.items()
    }


def caption(scores: Scores, index: int) -> str:
    """Name and score of an image, and what it is if that is known."""
    verdict = VERDICTS.get((bool(scores.values[index] >= scores.threshold), scores.labels[index]), "")
    name = "/".join(Path(scores.paths[index]).parts[-2:])
    return f"{name}: {scores.values[index]:.4g}" + (f", {verdict}" if verdict else "")


def picture(path: str, known: Sequence[Path]) -> bytes:
    """PNG of an image's visualization among those that are known, else of the image, else of nothing."""
    file = io.BytesIO()
    image = _read(path, known)
    image.thumbnail((SIDE, SIDE))
    image.save(file, "png")
    return file.getvalue()


def _read(path: str, known: Sequence[Path]) -> Image.Image:
    found = visualization(path, known)
    try:
        return Image.open(found).convert("RGB") if found else to_pil_image(read_rgb(path))
    except (OSError, ValueError):  # it was moved or deleted
        return Image.new("RGB", (SIDE // 4, SIDE // 4), "lightgray")


def visualization(path: str, known: Sequence[Path]) -> Path | None:
    """The visualization of an image: the one whose path ends like the image's for most folders; None if two do."""
    parts = Path(path).with_suffix("").parts[::-1]
    shared = {file: _shared(parts, file.with_suffix("").parts[::-1]) for file in known}
    most = max(shared.values(), default=0)
    best = [file for file, count in shared.items() if count == most]
    return best[0] if most and len(best) == 1 else None


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts are the same from the start on."""
    differing = [one != other for one, other in zip(first, second, strict=False)]
    return [*differing, True].index(True)
