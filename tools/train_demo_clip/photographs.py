# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Photographs of solar cells to paint damage on, from the pip package ``elpv-dataset`` (CC BY-NC-SA 4.0).

Only cells whose experts were nearly sure that they are sound: a probability of 1/3 of a defect. Tests use 0 and 1.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tower import package_folder


def solar_cells() -> list[Path]:
    """The files."""
    folder = package_folder("elpv_dataset") / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    return [folder / file for file, probability, _ in rows if 0.1 < float(probability) < 0.5]


def read(path: Path) -> NDArray[np.uint8]:
    """A photograph (H, W, 3)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        msg = f"{path} can't be read."
        raise FileNotFoundError(msg)
    return np.ascontiguousarray(image[..., ::-1])
