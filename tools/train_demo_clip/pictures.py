# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Pictures to learn from: photographs that scikit-image carries, drawn surfaces and parts, and views of them.

Not among them: the photographs of the demo's held-out categories (grass, moon, stars, and retina with its detail
microaneurysms).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage
from damage import Array, Rng
from drawings import DRAWINGS
from numpy.typing import NDArray

PHOTOGRAPHS = {
    "astronaut.png": ["portrait", "person", "photograph"],
    "brick.png": ["brick", "wall", "bricks"],
    "camera.png": ["photographer", "coat", "photograph"],
    "cell.png": ["cell", "culture"],
    "chelsea.png": ["cat", "fur"],
    "clock_motion.png": ["clock", "dial"],
    "coffee.png": ["coffee", "cup", "table"],
    "coins.png": ["coins", "coin", "metal"],
    "color.png": ["color chart", "color"],
    "gravel.png": ["gravel", "stones", "ground"],
    "ihc.png": ["tissue", "slide"],
    "motorcycle_left.png": ["motorcycle", "engine", "garage"],
    "motorcycle_right.png": ["motorcycle", "machine"],
    "page.png": ["page", "paper", "text"],
    "rocket.jpg": ["rocket", "launch pad"],
    "text.png": ["text", "writing"],
}
SURFACES = {"brick", "coins", "gravel", "tissue", "page", "cell", "fur"}  # seen more often than other photographs
POOL_SIDE = 320
N_DRAWN, N_SHUFFLED = 375, 45
Named = tuple[list[str], NDArray[np.uint8]]


def make_pool(seed: int) -> list[Named]:
    """Names and picture (H, W, 3), uint8, of all that views are taken of; photographs several times."""
    rng = np.random.default_rng([seed, 0])
    photographs = [(names, _read(name)) for name, names in PHOTOGRAPHS.items()]
    drawn = []
    for index in range(N_DRAWN):
        draw = DRAWINGS[index % len(DRAWINGS)]
        drawn.append(draw(POOL_SIDE, rng))
    shuffled = [
        (["texture", "pattern"], _shuffled(photographs[i % len(photographs)][1], rng)) for i in range(N_SHUFFLED)
    ]
    surfaces = [each for each in photographs if set(each[0]) & SURFACES]
    return photographs * 10 + surfaces * 20 + drawn + shuffled


def views(pool: list[Named], side: int, rng: Rng) -> tuple[str, Array, Array]:
    """A name and two views (side, side, 3), float32 in [0, 1], of one picture of the pool; sometimes of two in one.

    They are grainy, so that damage which wipes a smooth surface leaves a trace.
    """
    names, picture = pool[rng.integers(len(pool))]
    seen = _look(picture, side, rng)
    if rng.random() < 0.2:
        share = rng.uniform(0.3, 0.7)
        seen = share * seen + (1 - share) * _look(pool[rng.integers(len(pool))][1], side, rng)
    if rng.random() < 0.25:
        seen = _filtered(seen.astype(np.float32), rng)
    seen = _recolour(seen.astype(np.float32), rng)
    seen = np.clip(_noisy(seen, rng.uniform(0.003, 0.02), rng), 0, 1)
    return str(names[rng.integers(len(names))]), seen[:, :side], seen[:, side:]


def light_and_noise(picture: Array, rng: Rng) -> Array:
    """The picture under another light, every other one with a camera's noise."""
    side = picture.shape[0]
    slope = np.linspace(-1, 1, side)
    a, b, c = rng.uniform(-0.06, 0.06, 3)
    light = (1 + a + b * slope + c * slope[:, None])[..., None]
    return np.clip(_noisy(picture * light, max(0, rng.uniform(-0.006, 0.006)), rng), 0, 1).astype(np.float32)


def _read(name: str) -> NDArray[np.uint8]:
    image = cv2.imread(str(Path(skimage.__file__).parent / "data" / name), cv2.IMREAD_COLOR)
    if image is None:
        msg = f"scikit-image {skimage.__version__} has no photograph {name}."
        raise FileNotFoundError(msg)
    return np.ascontiguousarray(image[..., ::-1])


def _shuffled(picture: NDArray[np.uint8], rng: Rng) -> NDArray[np.uint8]:
    """A texture with the spectrum of a part of the picture: its Fourier phases are shifted at random."""
    part = _look(picture, POOL_SIDE, rng)[:, :POOL_SIDE] - 0.5
    noise = np.fft.rfft2(rng.standard_normal(part.shape[:2]))
    phases = noise / (np.abs(noise) + 1e-9)
    new = np.fft.irfft2(np.fft.rfft2(part, axes=(0, 1)) * phases[..., None], s=part.shape[:2], axes=(0, 1))
    return (np.clip(new + 0.5, 0, 1) * 255).astype(np.uint8)


def _look(picture: NDArray[np.uint8], side: int, rng: Rng) -> Array:
    """Two views side by side, of other places under almost the same random angle and zoom; flipped at random."""
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(1.5))))  # pixels of the picture per pixel of the view
    angle, flip = rng.uniform(-0.15, 0.15) + rng.integers(4) * np.pi / 2, float(rng.choice([-1, 1]))
    places = [_place(picture, side, zoom * rng.uniform(0.92, 1.08), angle + rng.uniform(-0.08, 0.08), flip, rng)
              for _ in range(2)]  # fmt: skip
    return np.concatenate(places, axis=1).astype(np.float32) / 255


def _place(
    picture: NDArray[np.uint8], side: int, zoom: float, angle: float, flip: float, rng: Rng
) -> NDArray[np.uint8]:
    """A view of a random place."""
    height, width = picture.shape[:2]
    zoom = min(zoom, min(height, width) / side)
    half = zoom * side / 2
    center = [rng.uniform(min(half, size / 2), max(size - half, size / 2)) for size in (width, height)]
    along, across = zoom * np.cos(angle), zoom * np.sin(angle)
    matrix = np.array([[along * flip, -across, 0], [across * flip, along, 0]])
    matrix[:, 2] = center - matrix[:, :2] @ [side / 2, side / 2]
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_AREA if zoom > 1.5 else cv2.INTER_LINEAR)
    return cv2.warpAffine(picture, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT)


def _noisy(picture: Array, deviation: float, rng: Rng) -> Array:
    cv2.setRNGSeed(int(rng.integers(2**31)))  # its noise takes a third of the time of numpy's
    return picture + cv2.randn(np.empty(picture.shape, np.float32), 0, deviation)


def _filtered(picture: Array, rng: Rng) -> Array:
    """The picture through a filter that makes another texture of it: there are few photographs."""
    choice = rng.integers(5)
    if choice == 0:
        return (picture ** rng.uniform(0.5, 2.2)).astype(np.float32)
    if choice in {1, 2}:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, tuple(int(v) for v in rng.integers(2, 6, 2)))
        return (cv2.erode if choice == 1 else cv2.dilate)(picture, kernel)
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 3))
    if choice == 3:
        return np.clip(picture + rng.uniform(0.5, 2.5) * (picture - blurred), 0, 1)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2)
    slope = np.cos(angle) * cv2.Sobel(blurred, -1, 1, 0) + np.sin(angle) * cv2.Sobel(blurred, -1, 0, 1)
    return np.clip(0.5 + strength * slope + rng.uniform(0, 0.5) * (picture - 0.5), 0, 1).astype(np.float32)


def _recolour(picture: Array, rng: Rng) -> Array:
    """The picture in other colours, contrast and brightness."""
    choice = rng.random()
    if choice < 0.35:
        picture = np.repeat(picture @ np.array([[0.3], [0.59], [0.11]], np.float32), 3, axis=-1)
    elif choice < 0.55:
        picture = picture[..., rng.permutation(3)]
    if rng.random() < 0.15:
        picture = 1 - picture
    if rng.random() < 0.3:
        picture = picture * rng.uniform(0.7, 1.2, 3).astype(np.float32)
    contrast, mean = rng.uniform(0.35, 1.3), picture.mean()
    picture = (picture - mean) * np.float32(contrast) + np.clip(mean + rng.uniform(-0.25, 0.2), 0.08, 0.92)
    return np.clip(picture, 0, 1).astype(np.float32)
