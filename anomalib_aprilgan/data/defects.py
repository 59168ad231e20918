# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Small defects painted on images of surfaces, as hard as real ones: thin, faint or of the surface's own colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from anomalib.data.utils.generators.perlin import generate_perlin_noise
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.filters import gaussian

Array = NDArray[np.float64]
Defect = Callable[[Array, np.random.Generator], tuple[Array, Array]]

SUPERSAMPLING = 4


def scratch(image: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A bent line, 1.5 to 3 pixels wide, brighter or darker than the surface; image (H, W, 3) and coverage (H, W)."""
    side = image.shape[0]
    start = rng.uniform(0.15, 0.85, 2) * side
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5) * side
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    bend = (start + end) / 2 + rng.normal(0, 0.08 * side, 2)
    steps = np.linspace(0, 1, 40)[:, None]
    curve = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
    coverage = _stroke(curve, rng.uniform(1.5, 3), side)
    return _shade(image, coverage, rng.uniform(0.18, 0.35)), coverage


def stain(image: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A cloudy spot of low contrast; image (H, W, 3) and coverage (H, W)."""
    side = image.shape[0]
    noise = _perlin(side, rng)
    spot = _ellipse(side, rng, radius=(0.07, 0.16), blur=0.03)
    coverage = np.clip(spot * (0.6 + noise), 0, 1)
    tint = rng.uniform(0.6, 1.4, 3)
    return _shade(image, coverage, rng.uniform(0.09, 0.16) * tint), coverage


def hole(image: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A small ellipse of uniform shade, as if a piece were missing; image (H, W, 3) and coverage (H, W)."""
    coverage = _ellipse(image.shape[0], rng, radius=(0.02, 0.055), blur=0.004)[..., None]
    ground = (coverage * image).sum(axis=(0, 1)) / coverage.sum()
    shade = ground * 0.3 if ground.mean() > 0.35 else 0.5 * ground + 0.35
    return image * (1 - coverage) + shade * coverage, coverage[..., 0]


def smear(image: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A spot where the surface is wiped in one direction; image (H, W, 3) and coverage (H, W)."""
    along = int(rng.integers(2))
    wiped = gaussian(image, sigma=(9, 0.5) if along else (0.5, 9), channel_axis=-1)
    change = np.abs(wiped - image).mean(axis=-1)
    spots = [_ellipse(image.shape[0], rng, radius=(0.06, 0.13), blur=0.01) for _ in range(6)]
    # Wiping a smooth place would change nothing, and its mask would be wrong.
    coverage = max(spots, key=lambda spot: (spot * change).sum() / spot.sum())
    return image + coverage[..., None] * (wiped - image), coverage


DEFECTS: dict[str, Defect] = {"scratch": scratch, "stain": stain, "hole": hole, "smear": smear}


def _shade(image: Array, coverage: Array, strength: float | Array) -> Array:
    """The image, darker where covered, or brighter if it is dark there."""
    ground = (image.mean(axis=-1) * coverage).sum() / coverage.sum()
    sign = -1 if ground > 0.4 else 1
    return np.clip(image + sign * coverage[..., None] * strength, 0, 1)


def _stroke(curve: Array, width: float, side: int) -> Array:
    canvas = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    points = [tuple(point) for point in curve * SUPERSAMPLING]
    ImageDraw.Draw(canvas).line(points, fill=255, width=round(width * SUPERSAMPLING), joint="curve")
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX)) / 255


def _ellipse(side: int, rng: np.random.Generator, radius: tuple[float, float], blur: float) -> Array:
    """A soft ellipse in [0, 1]; radii and blur in parts of the side."""
    center, radii = rng.uniform(0.15, 0.85, 2), rng.uniform(*radius, 2)
    angle = rng.uniform(0, np.pi)
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    x, y = columns - center[0], rows - center[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    return gaussian(inside.astype(float), blur * side)


def _perlin(side: int, rng: np.random.Generator) -> Array:
    """Anomalib's Perlin noise in [0, 1], (side, side)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**31)))
        noise = generate_perlin_noise(side, side, scale=(4, 4)).numpy()
    return (noise - noise.min()) / (noise.max() - noise.min())
