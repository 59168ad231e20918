# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Pairs of pictures to learn from: one of a thing as it should be, one of it with damage, and where that is.

Every third thing is an object on a ground: its outline is no damage.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from damage import Array, Rng, damage_often
from numpy.typing import NDArray
from pictures import Named, light_and_noise, views

SIDE = 224
OBJECTS, TWINS, LARGE = 0.35, 0.4, 0.3  # shares: objects, the same view twice, damage of twice the size


@dataclass
class Pair:
    """Pictures (H, W, 3), uint8, and the mask (H, W) of the damaged one, 0 or 1."""

    normal: NDArray[np.uint8]
    damaged: NDArray[np.uint8]
    mask: Array


def make_pair(pool: list[Named], rng: Rng) -> Pair:
    """Two pictures of one thing of the pool, the second one damaged."""
    _, one, other = views(pool, SIDE, rng)
    where = [np.ones((SIDE, SIDE), np.float32)] * 2
    if rng.random() < OBJECTS:
        ground, seed = _ground(pool, rng), int(rng.integers(2**31))
        (one, where[0]), (other, where[1]) = (_on_ground(each, ground, seed, rng) for each in (one, other))
    twin = rng.random() < TWINS
    damaged, mask = _damage_there(one if twin else other, where[0 if twin else 1], rng)
    return Pair(_bytes(light_and_noise(one, rng)), _bytes(light_and_noise(damaged, rng)), mask)


def _damage_there(picture: Array, where: Array, rng: Rng) -> tuple[Array, Array]:
    """Damage that lies mostly where it is wanted, if that is found in a few tries."""
    for _ in range(8):
        damaged, mask = _enlarged(picture, rng) if rng.random() < LARGE else damage_often(picture, rng)
        if (mask * (where > 0.3)).sum() > 0.7 * mask.sum():
            break
    return damaged.astype(np.float32), mask


def _enlarged(picture: Array, rng: Rng) -> tuple[Array, Array]:
    """Damage of twice the size; the picture stays as sharp as it is."""
    small = cv2.resize(picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    damaged, mask = damage_often(small, rng)
    changed = np.clip(picture + cv2.resize(damaged - small, (SIDE, SIDE)), 0, 1)
    return changed, (cv2.resize(mask, (SIDE, SIDE)) > 0.5).astype(np.float32)


def _ground(pool: list[Named], rng: Rng) -> Array:
    """A smooth ground, or one of the pool."""
    if rng.random() > 0.6:
        return views(pool, SIDE, rng)[1]
    shade = rng.uniform(0, 1) if rng.random() < 0.6 else float(rng.choice([0.03, 0.97]))
    tint = np.ones(3) if rng.random() < 0.6 else rng.uniform(0.7, 1.2, 3)
    grain = rng.normal(0, rng.uniform(0.002, 0.02), (SIDE, SIDE, 3))
    return np.clip(shade * tint + grain, 0, 1).astype(np.float32)


def _on_ground(texture: Array, ground: Array, seed: int, rng: Rng) -> tuple[Array, Array]:
    """An object of the texture on the ground, and where it is; the same seed gives the same shape and shading."""
    fixed = np.random.default_rng(seed)
    shape = _shape(fixed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    direction = fixed.uniform(0, 2 * np.pi)
    depth = cv2.distanceTransform((shape > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    depth = np.sqrt(depth / (depth.max() + 1e-6))
    slope = 2 * fixed.uniform(0, 0.35) * (np.cos(direction) * x + np.sin(direction) * y)
    light = 1 + slope + fixed.uniform(0, 0.5) * (depth - 0.7)
    thing = np.clip(texture * light[..., None], 0, 1).astype(np.float32)
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), float(rng.uniform(-8, 8)), float(rng.uniform(0.95, 1.05)))
    turn[:, 2] += rng.uniform(-5, 5, 2)
    shape = cv2.warpAffine(shape, turn, (SIDE, SIDE))
    thing = cv2.warpAffine(thing, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    return (ground + shape[..., None] * (thing - ground)).astype(np.float32), shape


def _shape(rng: Rng) -> Array:
    """A disc, an ellipse, a box, a nut-like outline or a ring, soft-edged, in [0, 1]."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    center, radii = SIDE / 2 + rng.uniform(-0.06, 0.06, 2) * SIDE, rng.uniform(0.22, 0.45, 2) * SIDE
    middle, box = tuple(int(v) for v in center), (tuple(center), tuple(1.7 * radii), float(rng.uniform(0, 180)))
    kind = rng.integers(5)
    if kind in {0, 4}:
        cv2.circle(canvas, middle, int(radii[0]), 255, -1)
    if kind == 1:
        cv2.ellipse(canvas, box, 255, -1)
    if kind == 2:
        cv2.fillPoly(canvas, [cv2.boxPoints(box).astype(np.int32)], 255)
    if kind == 3:
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = [rng.uniform(0, 0.18 / (n + 1)) * np.cos(n * turns + rng.uniform(0, 2 * np.pi)) for n in range(2, 6)]
        outline = np.stack([np.cos(turns), np.sin(turns)], 1) * radii * (1 + np.sum(waves, axis=0))[:, None]
        cv2.fillPoly(canvas, [(center + outline).astype(np.int32)], 255)
    if kind == 4:
        cv2.circle(canvas, middle, int(radii[0] * rng.uniform(0.3, 0.7)), 0, -1)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), rng.uniform(0.6, 1.5))


def _bytes(picture: Array) -> NDArray[np.uint8]:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
