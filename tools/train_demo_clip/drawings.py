# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Drawn surfaces and parts: each function returns possible names and a picture (side, side, 3), uint8."""

from __future__ import annotations

import cv2
import numpy as np
from damage import Array, Rng
from numpy.typing import NDArray

Drawn = tuple[list[str], NDArray[np.uint8]]


def cloudy(side: int, rng: Rng) -> Drawn:
    """Noise with a power spectrum, stretched in one direction or not: from clouds to wood and brushed metal."""
    stretch = np.exp(rng.uniform(0, 2.2)) if rng.random() < 0.4 else 1.0
    names = ["wood", "brushed steel", "metal"] if stretch > 2 else ["concrete", "leather", "marble", "sand", "plaster"]
    return names, _paint(_noise(side, rng, rng.uniform(0.4, 2.2), stretch), rng)


def rough(side: int, rng: Rng) -> Drawn:
    """Smooth ground with grain."""
    ground = _noise(side, rng, 2.5, 1.0) * rng.uniform(0.2, 1.0)
    grain = _noise(side, rng, rng.uniform(0, 0.8), 1.0) * rng.uniform(0.05, 0.5)
    return ["paper", "plastic", "sheet", "rock"], _paint(ground + grain, rng, contrast=rng.uniform(0.03, 0.2))


def weave(side: int, rng: Rng) -> Drawn:
    """Threads over and under each other."""
    x, y = _grid(side, rng)
    period = rng.uniform(5, 22)
    warp, weft = np.cos(2 * np.pi * x / period), np.cos(2 * np.pi * y / (period * rng.uniform(0.7, 1.4)))
    over = np.sign(np.cos(np.pi * x / period) * np.cos(np.pi * y / period))
    threads = (
        np.where(over > 0, np.abs(warp), np.abs(weft)) if rng.random() < 0.5 else warp * weft + 0.3 * (warp + weft)
    )
    return ["fabric", "weave", "canvas", "carpet"], _paint(_grainy(threads, rng), rng)


def tiles(side: int, rng: Rng) -> Drawn:
    """Tiles, each of its own shade, with joints."""
    x, y = _grid(side, rng)
    size = rng.uniform(18, 80, 2)
    rows = np.floor(y / size[1])
    x = x + (rows % 2) * size[0] / 2 * (rng.random() < 0.5)
    shades = rng.random((64, 64))[rows.astype(int) % 64, np.floor(x / size[0]).astype(int) % 64]
    joint = (x % size[0] < rng.uniform(1.5, 5)) | (y % size[1] < rng.uniform(1.5, 5))
    flat = shades * rng.uniform(0, 0.8) - joint * rng.choice([-1.5, 1.5])
    return ["tile", "floor", "pavement"], _paint(_grainy(flat, rng), rng)


def cells(side: int, rng: Rng) -> Drawn:
    """Cells around random points: pebbles, foam, scales."""
    n = int(rng.integers(40, 900))
    canvas = np.full((side, side), 255, np.uint8)
    points = rng.integers(0, side, (n, 2))
    canvas[points[:, 1], points[:, 0]] = 0
    distance, labels = cv2.distanceTransformWithLabels(canvas, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shades = rng.random(n + 2)[labels % (n + 2)] * rng.uniform(0, 1)
    flat = shades - distance / (side / np.sqrt(n)) * rng.uniform(0.5, 2)
    return ["pebbles", "foam", "granite", "cells"], _paint(_grainy(flat, rng), rng)


def dots(side: int, rng: Rng) -> Drawn:
    """Spots of all sizes on an even ground."""
    canvas = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(60, 700))):
        center = tuple(int(v) for v in rng.integers(0, side, 2))
        cv2.circle(canvas, center, int(rng.exponential(rng.uniform(0.5, 4))), float(rng.random()), -1, cv2.LINE_AA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 2.0))
    return ["dots", "beads", "seeds", "lights"], _paint(_grainy(canvas, rng), rng)


def strokes(side: int, rng: Rng) -> Drawn:
    """Very many short lines: hair, straw, fibres."""
    canvas = np.zeros((side, side), np.float32)
    direction, spread = rng.uniform(0, np.pi), rng.uniform(0.1, 1.5)
    length = rng.uniform(8, 40)
    for _ in range(int(rng.integers(800, 3000))):
        start, angle = rng.uniform(0, side, 2), direction + rng.normal(0, spread)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in point) for point in (start, end)]
        cv2.line(canvas, *ends, float(rng.random()), int(rng.integers(1, 4)), cv2.LINE_AA)
    return ["hair", "straw", "fibres", "felt"], _paint(_grainy(canvas, rng), rng)


def mesh(side: int, rng: Rng) -> Drawn:
    """Wires, or holes, in rows."""
    x, y = _grid(side, rng)
    period, radius = rng.uniform(10, 40), rng.uniform(0.25, 0.45)
    u, v = x % period / period - 0.5, y % period / period - 0.5
    shape = np.hypot(u, v) < radius if rng.random() < 0.5 else np.maximum(abs(u), abs(v)) < radius
    flat = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))
    return ["mesh", "grid", "grating", "keyboard"], _paint(_grainy(flat, rng), rng)


def parts(side: int, rng: Rng) -> Drawn:
    """Bolts, nuts, washers, gears, tablets on a ground."""
    _, picture = (cloudy, rough, weave)[rng.integers(3)](side, rng)
    kind = str(rng.choice(["bolt", "washer", "gear", "tablet", "hex nut"]))
    for center in (np.mgrid[0:3, 0:3].reshape(2, 9).T + 0.5) * side / 3 + rng.uniform(-8, 8, (9, 2)):
        if rng.random() < 0.85:
            _draw_part(picture, kind, center, side / 3 * rng.uniform(0.3, 0.42), rng)
    return [kind, "part", "metal part" if kind != "tablet" else "pill"], picture


def board(side: int, rng: Rng) -> Drawn:
    """A circuit board: tracks, pads, chips."""
    base = rng.uniform(20, 120, 3)
    picture = np.tile(base, (side, side, 1)).astype(np.uint8)
    track = tuple(float(v) for v in np.clip(base + rng.uniform(20, 60, 3), 0, 255))
    for _ in range(int(rng.integers(25, 60))):
        points = [rng.integers(0, side, 2) // 8 * 8]
        for step in range(3):
            points.append(points[-1] + np.eye(2, dtype=int)[step % 2] * int(rng.integers(-10, 11)) * 8)
        cv2.polylines(picture, [np.array(points, np.int32)], False, track, int(rng.integers(1, 4)), cv2.LINE_AA)
        cv2.circle(picture, tuple(int(v) for v in points[0]), 4, (210.0, 200.0, 150.0), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(3, 10))):
        corner, size = rng.integers(0, side, 2), rng.integers(12, 60, 2)
        shade = tuple(float(v) for v in rng.uniform(10, 90) * np.ones(3))
        cv2.rectangle(picture, tuple(map(int, corner)), tuple(map(int, corner + size)), shade, -1)
    return ["circuit board", "board", "pcb"], _speckle(picture, rng)


def blades(side: int, rng: Rng) -> Drawn:
    """Bent strips of all lengths, one above the other, each with a dark edge: straw, needles, chips."""
    canvas = np.full((side, side), rng.random(), np.float32)
    direction, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 3)
    length, width = rng.uniform(8, 40), rng.uniform(1, 4)
    for _ in range(int(rng.integers(400, 2500))):
        angle = direction + spread * rng.normal()
        turns = angle + np.array([0, 1, 2]) * rng.normal(0, 0.25)
        steps = length * np.exp(rng.normal(0, 0.5)) / 3 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = np.round(rng.uniform(-0.1, 1.1, 2) * side + np.cumsum([[0, 0], *steps], axis=0)).astype(np.int32)
        thick, shade = int(max(1, width * np.exp(rng.normal(0, 0.4)))), float(rng.random())
        cv2.polylines(canvas, [points], False, shade * 0.4, thick + 2, cv2.LINE_AA)
        cv2.polylines(canvas, [points], False, shade, thick, cv2.LINE_AA)
    return ["straw", "needles", "hay", "shavings"], _paint(_grainy(canvas, rng), rng)


def heap(side: int, rng: Rng) -> Drawn:
    """Shapes of all sizes, one above the other, small ones most often (the dead leaves model)."""
    base, spread = rng.uniform(40, 200, 3), rng.uniform(8, 60)
    picture = np.tile(base, (side, side, 1)).astype(np.float32)
    smallest, slope, kind, edge = rng.uniform(1, 6), rng.uniform(1.2, 3), rng.integers(3), rng.random() < 0.5
    for _ in range(int(rng.integers(300, 2500))):
        radius = min(smallest * rng.random() ** (-1 / slope), side / 5)
        center, colour = rng.integers(0, side, 2), base + spread * (rng.normal() + 0.3 * rng.normal(size=3))
        turns = np.sort(rng.uniform(0, 2 * np.pi, 5)) if kind == 2 else np.linspace(0, 2 * np.pi, 16)
        shape = np.stack([np.cos(turns), (1 if kind == 0 else rng.uniform(0.3, 1)) * np.sin(turns)], 1)
        turn = rng.uniform(0, np.pi)
        shape @= np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = [np.round((center + radius * shape) * 4).astype(np.int32)]
        cv2.fillPoly(picture, points, tuple(map(float, colour)), cv2.LINE_AA, 2)
        if edge:
            cv2.polylines(picture, points, True, tuple(map(float, 0.6 * colour)), 1, cv2.LINE_AA, 2)
    return ["leaves", "stones", "chips", "granules"], _speckle(np.clip(picture, 0, 255).astype(np.uint8), rng)


def lights(side: int, rng: Rng) -> Drawn:
    """Soft spots of all sizes and of many colours, small ones most often, on an even ground."""
    picture = np.zeros((side, side, 3), np.float32)
    many, slope = rng.uniform(0.5, 6), rng.uniform(1.2, 2.2)
    for blur in (0.6, 0.9, 1.4, 2.2, 3.5, 6.0, 10.0):
        layer = np.zeros_like(picture)
        for _ in range(rng.poisson(many * 100 * (0.6 / blur) ** slope)):
            colour = rng.uniform(0.2, 1) * (1 - rng.uniform(0, 0.5) * rng.random(3))
            axes = (max(1, int(1.5 * blur * rng.uniform(0.5, 1))), max(1, int(1.5 * blur * rng.uniform(0.3, 1))))
            center = tuple(int(v) for v in rng.integers(0, side, 2))
            cv2.ellipse(layer, center, axes, rng.uniform(0, 180), 0, 360, tuple(map(float, colour)), -1)
        picture += cv2.GaussianBlur(layer, (0, 0), blur)
    ground = rng.uniform(0.02, 0.2)
    return ["lights", "spots", "droplets", "bubbles"], (np.clip(ground + picture, 0, 1) * 255).astype(np.uint8)


def veins(side: int, rng: Rng) -> Drawn:
    """Winding lines of several widths on a smooth ground."""
    canvas = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(8, 40))):
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0.1, 0.5), 30))
        steps = rng.uniform(4, 12) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = np.round((rng.uniform(0, side, 2) + np.cumsum(steps, axis=0)) * 4).astype(np.int32)
        thick = int(min(8, rng.integers(1, 3) * np.exp(rng.exponential(0.5))))
        cv2.polylines(canvas, [points], False, float(rng.uniform(0.2, 1)), thick, cv2.LINE_AA, 2)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.6, 2)) * rng.choice([-1, 1])
    flat = canvas * rng.uniform(2, 6) + rng.uniform(0.3, 1) * _noise(side, rng, 2.5, 1.0)
    grain = rng.uniform(0, 0.1) * _noise(side, rng, rng.uniform(0, 1), 1.0)
    return ["marble", "glaze", "roots", "veins"], _paint(flat + grain, rng, contrast=rng.uniform(0.03, 0.15))


def relief(side: int, rng: Rng) -> Drawn:
    """A height lit from one side: hammered metal, plaster, bumps and pits."""
    _, picture = (cloudy, cells, dots, strokes)[rng.integers(4)](side, rng)
    height = cv2.GaussianBlur(picture.mean(-1).astype(np.float32), (0, 0), rng.uniform(0.7, 2.5))
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * cv2.Sobel(height, -1, 1, 0) + np.sin(angle) * cv2.Sobel(height, -1, 0, 1)
    return ["hammered metal", "plaster", "stone", "cast iron"], _paint(_grainy(slope, rng), rng)


DRAWINGS = [
    cloudy, rough, weave, tiles, cells, dots, strokes, mesh, parts, board, blades, heap, lights, veins, relief,
]  # fmt: skip


def _draw_part(picture: NDArray[np.uint8], kind: str, center: Array, radius: float, rng: Rng) -> None:
    """One part, shaded towards a side, drawn into the picture."""
    shade = rng.uniform(90, 220) + rng.uniform(-15, 15, 3)
    corners = {"bolt": 6, "hex nut": 6, "washer": 40, "tablet": 40, "gear": 64}[kind]
    turns = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 1)
    reach = radius * (1 + 0.16 * (np.arange(corners) % 4 < 2) if kind == "gear" else np.ones(corners))
    outline = center + np.stack([np.cos(turns), np.sin(turns)], 1) * reach[:, None]
    for step, inset in enumerate((1.0, 0.92)):
        polygon = np.round((outline - center) * inset + center).astype(np.int32)
        cv2.fillPoly(picture, [polygon], tuple(float(v) for v in shade * (0.7, 1.0)[step]), cv2.LINE_AA)
    point = tuple(int(v) for v in center)
    inner = tuple(float(v) for v in shade * (0.3 if kind in {"washer", "hex nut", "gear"} else 0.9))
    if kind != "tablet":
        cv2.circle(picture, point, int(radius * 0.5), inner, -1, cv2.LINE_AA)
    else:
        cv2.line(picture, (point[0] - int(radius * 0.8), point[1]), (point[0] + int(radius * 0.8), point[1]), inner, 2)


def _grid(side: int, rng: Rng) -> tuple[NDArray, NDArray]:
    """Coordinates x and y (side, side) in pixels, turned a little and not quite straight."""
    y, x = np.mgrid[:side, :side].astype(float) + 1000
    angle = rng.uniform(-0.3, 0.3)
    bend = rng.uniform(0, 2) * np.sin(y / rng.uniform(15, 60))
    return x * np.cos(angle) - y * np.sin(angle) + bend, x * np.sin(angle) + y * np.cos(angle)


def _noise(side: int, rng: Rng, slope: float, stretch: float) -> NDArray:
    """Noise (side, side) of spread 1 whose amplitude falls with frequency to the power of `slope`."""
    v, u = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    angle = rng.uniform(0, np.pi)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    frequency = np.hypot(along * stretch, across) + 1 / side
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-slope, s=(side, side))
    return (noise - noise.mean()) / noise.std()


def _grainy(flat: NDArray, rng: Rng) -> NDArray:
    """With uneven brightness and grain."""
    flat = (flat - flat.mean()) / (flat.std() + 1e-6)
    side = flat.shape[0]
    uneven = rng.uniform(0, 0.5) * _noise(side, rng, 2.0, 1.0)
    return flat + uneven + rng.uniform(0, 0.5) * _noise(side, rng, rng.uniform(0, 1), 1.0)


def _paint(flat: NDArray, rng: Rng, contrast: float | None = None) -> NDArray[np.uint8]:
    """The values as shades between two colours."""
    flat = (flat - flat.mean()) / (flat.std() + 1e-6)
    contrast = float(np.exp(rng.uniform(np.log(0.03), np.log(0.25)))) if contrast is None else contrast
    colour, tint = rng.uniform(0.15, 0.85, 3), rng.uniform(0.6, 1.4, 3)
    if rng.random() < 0.5:
        colour, tint = colour.mean() * np.ones(3), np.ones(3)
    return (np.clip(colour + contrast * flat[..., None] * tint, 0, 1) * 255).astype(np.uint8)


def _speckle(picture: NDArray[np.uint8], rng: Rng) -> NDArray[np.uint8]:
    noise = rng.normal(0, rng.uniform(1, 8), picture.shape[:2])[..., None]
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.7) + noise, 0, 255).astype(np.uint8)
