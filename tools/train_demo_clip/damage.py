# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Damage of many kinds, painted on pictures (H, W, 3), float32 in [0, 1]; coverage (H, W) says how much of it where.

Written anew, with other shapes and wider ranges than `anomalib_aprilgan.data.defects`, on which the demo is tested.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rng = np.random.Generator
LARGEST = 0.18  # radius of a spot in parts of the side: most of a picture must stay as it was, or nothing stands out
SHIFT = 4  # cv2 draws with 4 fractional bits
cv2.setNumThreads(0)  # its threads do not survive the fork of a loader


def scratch(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A thin line, straight, bent or with a kink, brighter or darker."""
    coverage = _line(picture.shape[0], rng, width=rng.uniform(1.2, 3.5), wobble=rng.choice([0.0, 2.0, 6.0, 12.0]))
    return _shade(picture, coverage, _contrast(rng, 0.12, 0.45)), coverage


def scratches(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """Two to four scratches."""
    coverage = np.zeros(picture.shape[:2], np.float32)
    for _ in range(rng.integers(2, 5)):
        picture, line = scratch(picture, rng)
        coverage = np.maximum(coverage, line)
    return picture, coverage


def crack(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A dark ragged line with a branch."""
    side = picture.shape[0]
    coverage = _line(side, rng, width=rng.uniform(1.2, 3.0), wobble=14.0, steps=9)
    coverage = np.maximum(coverage, _line(side, rng, width=1.3, wobble=10.0, steps=6) if rng.random() < 0.3 else 0)
    return picture * (1 - coverage[..., None] * rng.uniform(0.4, 0.9)), coverage


def stain(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A cloudy spot of low contrast, tinted or gray."""
    side = picture.shape[0]
    cloud = 0.4 + 1.2 * _clouds(side, rng)
    coverage = np.clip(_blob(side, rng, (9, 38), blur=rng.uniform(2, 8)) * cloud, 0, 1)
    tint = rng.uniform(0.4, 1.6, 3) if rng.random() < 0.7 else np.ones(3)
    return _shade(picture, coverage, (_contrast(rng, 0.08, 0.25) * tint).astype(np.float32)), coverage


def hole(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A small spot of one shade: a hole, a chip, a drop."""
    coverage = _blob(picture.shape[0], rng, (3.5, 14), blur=rng.uniform(0.5, 1.5))
    ground = (coverage[..., None] * picture).sum((0, 1)) / (coverage.sum() + 1e-6)
    shade = ground * rng.uniform(0.1, 0.5) if ground.mean() > rng.uniform(0.2, 0.5) else ground * 0.5 + 0.35
    return _mix(picture, shade.astype(np.float32), coverage), coverage


def missing(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A part gone: a larger spot or strip of even colour."""
    coverage = _blob(picture.shape[0], rng, (10, 30), blur=rng.uniform(0.5, 2))
    shade = picture[rng.integers(picture.shape[0]), rng.integers(picture.shape[1])]
    if np.abs(shade - picture.mean((0, 1))).mean() < 0.12:
        shade = rng.uniform(0, 1, 3)
    noise = rng.normal(0, 0.015, picture.shape)
    return _mix(picture, (shade + noise).astype(np.float32), coverage), coverage


def smear(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A spot wiped in one direction, or out of focus: its grain is gone too."""
    spread = rng.uniform(4, 12)
    length = 2 * int(2 * spread) + 1
    along = cv2.getGaussianKernel(length, spread)
    across = cv2.getGaussianKernel(length, rng.uniform(0.3, 0.8))
    angle = rng.choice([0, 90, rng.uniform(0, 180)])
    turn = cv2.getRotationMatrix2D((length // 2, length // 2), angle, 1.0)
    kernel = cv2.warpAffine(across @ along.T, turn, (length, length))
    wiped = cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    if rng.random() < 0.15:
        wiped = cv2.GaussianBlur(picture, (0, 0), rng.uniform(2, 5))
    return _where_it_shows(picture, wiped, rng, (10, 30))


def misplaced(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A piece from elsewhere, turned."""
    side = picture.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(60, 300), rng.uniform(0.6, 1.6))
    turn[:, 2] += rng.uniform(-0.3, 0.3, 2) * side
    return _where_it_shows(picture, _warp(picture, turn), rng, (8, 28))


def bend(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A place where the surface is pushed aside."""
    side = picture.shape[0]
    spot = _blob(side, rng, (12, 32), blur=5)
    shift = rng.choice([-1, 1], 2) * rng.uniform(4, 12, 2)
    columns, rows = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    maps = (columns + spot * np.float32(shift[0]), rows + spot * np.float32(shift[1]))
    pushed = cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return pushed, _changed(picture, pushed, spot)


def wrong_colour(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A spot of another hue, its texture kept."""
    coverage = _blob(picture.shape[0], rng, (6, 30), blur=rng.uniform(0.7, 4))
    gain, offset = rng.uniform(0.5, 1.5, 3), rng.uniform(-0.15, 0.15, 3)
    return _mix(picture, np.clip(picture * gain + offset, 0, 1).astype(np.float32), coverage), coverage


def specks(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """A group of small dots, or a grainy spot."""
    side = picture.shape[0]
    area = _blob(side, rng, (8, 22), blur=1)
    dots = (cv2.GaussianBlur(rng.random((side, side)).astype(np.float32), (0, 0), rng.uniform(0.6, 1.4)) - 0.5) * 6
    coverage = area * np.clip(dots, 0, 1)
    return _shade(picture, coverage, _contrast(rng, 0.2, 0.6)), area


DAMAGES: dict[Callable[[Array, Rng], tuple[Array, Array]], float] = {
    scratch: 5, scratches: 1, crack: 1, stain: 5, hole: 3.5, missing: 1, smear: 6, misplaced: 0.5, bend: 0.5,
    wrong_colour: 1, specks: 1,
}  # fmt: skip


def damage(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """The damaged picture and where it is damaged, (H, W), 0 or 1; drawn again while nothing much would be seen."""
    kinds, weights = list(DAMAGES), np.array(list(DAMAGES.values()))
    for _ in range(6):
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        damaged, coverage = kind(picture, rng)
        damaged = np.clip(damaged, 0, 1)
        mask = coverage > 0.3
        if mask.sum() > 25 and _shows(picture, damaged, mask):
            break
    return damaged, mask.astype(np.float32)


def damage_often(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """The picture damaged in one to three places, and where."""
    mask = np.zeros(picture.shape[:2], np.float32)
    for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
        picture, more = damage(picture, rng)
        mask = np.maximum(mask, more)
    return picture, mask


def _shows(picture: Array, damaged: Array, mask: NDArray[np.bool_]) -> bool:
    """Whether shades changed, or else the grain is gone, as where a smooth surface was wiped."""
    if np.abs(damaged - picture)[mask].mean() > 0.035:
        return True
    before, after = (np.abs(each - cv2.blur(each, (3, 3)))[mask].mean() for each in (picture, damaged))
    return bool(after < 0.5 * before and before > 0.004)


def _contrast(rng: Rng, low: float, high: float) -> float:
    """A change of brightness."""
    return float(rng.uniform(low, high))


def _shade(picture: Array, coverage: Array, strength: float | Array) -> Array:
    """Darker where covered, or brighter where it is dark."""
    ground = float((picture.mean(-1) * coverage).sum() / (coverage.sum() + 1e-6))
    sign = -1 if ground > 0.4 else 1
    return picture + np.float32(sign) * coverage[..., None] * strength


def _mix(picture: Array, other: Array, coverage: Array) -> Array:
    return picture + coverage[..., None] * (other - picture)


def _where_it_shows(picture: Array, other: Array, rng: Rng, radius: tuple[float, float]) -> tuple[Array, Array]:
    """The other picture in a spot where it differs."""
    change = np.abs(other - picture).mean(-1)
    spots = [_blob(picture.shape[0], rng, radius, blur=rng.uniform(1, 3)) for _ in range(6)]
    spot = max(spots, key=lambda each: float((each * change).sum() / (each.sum() + 1e-6)))
    return _mix(picture, other, spot), spot


def _changed(picture: Array, other: Array, spot: Array) -> Array:
    change = cv2.GaussianBlur(np.abs(other - picture).mean(-1), (0, 0), 3)
    return spot * (change > 0.02)


def _line(side: int, rng: Rng, width: float, wobble: float, steps: int = 4) -> Array:
    """A line through the picture with a random walk across it; drawn at 4 times the size."""
    angle, length = rng.uniform(0, 2 * np.pi), min(rng.uniform(25, 110), 0.9 * side)
    along = np.array([np.cos(angle), np.sin(angle)])
    middle = rng.uniform(0.15, 0.85, 2) * side
    t = np.linspace(-0.5, 0.5, steps)
    walk = np.cumsum(rng.normal(0, wobble, steps)) / np.sqrt(steps)
    points = middle + t[:, None] * length * along + (walk - walk.mean())[:, None] * along[::-1] * [1, -1]
    if steps <= 4:  # smooth
        fine = np.linspace(0, 1, 20)
        curve = np.polynomial.polynomial.polyfit(np.linspace(0, 1, steps), points, min(2, steps - 1))
        points = np.polynomial.polynomial.polyval(fine, curve).T
    canvas = np.zeros((side * 4, side * 4), np.uint8)
    vertices = np.round(points * 4 * 2**SHIFT).astype(np.int32)
    cv2.polylines(canvas, [vertices], False, 255, max(1, round(width * 4)), cv2.LINE_8, SHIFT)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _blob(side: int, rng: Rng, radius: tuple[float, float], blur: float) -> Array:
    """A soft ellipse or ragged polygon in [0, 1]; radius and blur in pixels, smaller ones in small pictures."""
    canvas = np.zeros((side, side), np.uint8)
    center = rng.uniform(0.1, 0.9, 2) * side
    share = min(1.0, LARGEST * side / radius[1])
    radii, angle = rng.uniform(radius[0] * (1 + share) / 2, radius[1] * share, 2), rng.uniform(0, 360)
    if rng.random() < 0.65:
        cv2.ellipse(canvas, (tuple(map(float, center)), tuple(map(float, 2 * radii)), float(angle)), 255, -1)
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
        reach = radii[0] * rng.uniform(0.5, 1.3, 9)
        vertices = center + np.stack([np.cos(turns), np.sin(turns)], 1) * reach[:, None]
        cv2.fillPoly(canvas, [np.round(vertices).astype(np.int32)], 255)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), blur)


def _clouds(side: int, rng: Rng) -> Array:
    coarse = rng.random((7, 7)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)


def _warp(picture: Array, matrix: NDArray[np.float64]) -> Array:
    side = picture.shape[0]
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
