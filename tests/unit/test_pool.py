# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Mutual scores of a pool against the authors' arrays and a naive loop."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from anomalib_aprilgan import pool
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.maps import map_maxima, resize
from anomalib_aprilgan.pool import local_tokens, mutual_scores, scores_against, smooth_scores
from conftest import GOLDEN, GOLDEN_LAYERS, GOLDEN_SIZE, IMAGE_MEAN, IMAGE_STD

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    with np.load(GOLDEN / "pool.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored if not name.endswith("image_paths")}


@pytest.fixture(scope="module")
def encoder(tiny_arguments: dict) -> ClipEncoder:
    return ClipEncoder(tiny_arguments["backbone"], tiny_arguments["pretrained"], GOLDEN_SIZE, GOLDEN_LAYERS)


@pytest.mark.parametrize("category", ["bolt", "fabric"])
def test_scores_equal_the_authors(arrays: dict[str, Tensor], encoder: ClipEncoder, category: str) -> None:
    golden = {name.removeprefix(f"{category}/"): array for name, array in arrays.items() if name.startswith(category)}
    images = golden["images_uint8"].permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        embeddings, stages = encoder((images - mean) / std)
    for r in (1, 3, 5):
        for tokens, expected in zip(stages, golden[f"scores_r{r}"], strict=True):
            torch.testing.assert_close(mutual_scores([tokens], (r,)), expected, **CLOSE)
    for layer, tokens in zip(GOLDEN_LAYERS, stages, strict=True):
        if f"features_r3_stage{layer}" in golden:
            torch.testing.assert_close(local_tokens(tokens[:2], 3), golden[f"features_r3_stage{layer}"], **CLOSE)
    maps = resize(mutual_scores(stages).unsqueeze(-1), GOLDEN_SIZE)[:, 0]
    maxima = map_maxima(maps)
    torch.testing.assert_close(maps, golden["anomaly_maps"], **CLOSE)
    torch.testing.assert_close(maxima, golden["maxima"], **CLOSE)
    for neighbours in ((1, 2, 3), (1, 8, 9)):
        expected = golden["scores_k" + "_".join(map(str, neighbours))]
        torch.testing.assert_close(smooth_scores(maxima, embeddings, neighbours), expected, **CLOSE)
        torch.testing.assert_close(smooth_scores(maxima, golden["embeddings"], neighbours), expected, **CLOSE)


def naive(stages: list[Tensor], neighbourhoods: tuple[int, ...], nearest: float) -> Tensor:
    """Each direction and each neighbourhood by itself, in double precision."""
    total = []
    for tokens, r in itertools.product(stages, neighbourhoods):
        rows = [naive_local(image.double(), r) for image in tokens]
        for i, own in enumerate(rows):
            distances = [
                torch.stack([(patch - other).norm(dim=-1).min() for patch in own])
                for j, other in enumerate(rows)
                if j != i
            ]
            kept = max(1, int(nearest * len(distances)))
            total.append(torch.stack(distances).sort(dim=0).values[:kept].mean(dim=0))
    return torch.stack(total).unflatten(0, (-1, len(stages[0]))).mean(dim=0).float()


def naive_local(tokens: Tensor, r: int) -> Tensor:
    side, reach = math.isqrt(len(tokens)), r // 2
    grid = ((tokens - tokens.mean()) / (tokens.var(correction=0) + 1e-5).sqrt()).view(side, side, -1)
    sums = [
        grid[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].sum(dim=(0, 1))
        for y, x in itertools.product(range(side), repeat=2)
    ]
    return torch.stack([each / each.norm() for each in sums])


@pytest.mark.parametrize(
    ("n_images", "side", "neighbourhoods", "nearest"),
    [(2, 2, (1, 3, 5), 0.3), (3, 1, (1, 3), 0.3), (6, 4, (3, 7), 0.5), (7, 3, (1,), 1.0), (12, 3, (1, 5), 0.3)],
)
@pytest.mark.parametrize("small_blocks", [False, True])
def test_scores_equal_a_naive_loop(
    monkeypatch: pytest.MonkeyPatch,
    n_images: int,
    side: int,
    neighbourhoods: tuple[int, ...],
    nearest: float,
    small_blocks: bool,
) -> None:
    """With blocks of two images and products of one pair, too; nothing but other images counts."""
    stages = [torch.randn(n_images, side**2, width) + 0.3 for width in (8, 5)]
    if small_blocks:
        monkeypatch.setattr(pool, "BLOCK_BYTES", 2 * 4 * side**2 * 8)
        monkeypatch.setattr(pool, "SIMILARITIES_PER_PASS", 1)
    expected, told = naive(stages, neighbourhoods, nearest), []
    actual = mutual_scores(stages, neighbourhoods, nearest, advance=told.append)
    torch.testing.assert_close(actual, expected, **CLOSE)
    assert sum(told) == len(stages) * len(neighbourhoods) * n_images * (n_images - 1) // 2
    # Each image against the pool that it is in, one after the other.
    same = torch.eye(n_images, dtype=torch.bool)
    one_by_one = [
        scores_against([tokens[[i]] for tokens in stages], stages, same[[i]], neighbourhoods, nearest)
        for i in range(n_images)
    ]
    torch.testing.assert_close(torch.cat(one_by_one), expected, **CLOSE)


def test_identical_images_have_distance_zero() -> None:
    """Whose cosines are rounded: in float32 their distance would come out as up to 5e-4."""
    image, other = torch.randn(2, 16, 256)
    tokens = torch.stack([image, image, other])
    scores = mutual_scores([tokens])
    assert torch.equal(scores[:2], torch.zeros(2, 16))
    assert (scores[2] > 0.5).all()
    assert torch.equal(scores_against([tokens[:1]], [tokens[[1]]]), torch.zeros(1, 16))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_tokens_and_products_in_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    """Rounded products may choose another patch, whose distance is larger by at most rounding; it is not rounded."""
    torch.manual_seed(0)
    tokens = torch.randn(5, 16, 64) + torch.randn(16, 64)
    expected = mutual_scores([tokens])
    torch.testing.assert_close(mutual_scores([tokens.to(dtype)]), expected, atol=tolerance, rtol=0)
    with torch.autocast("cpu", dtype=dtype):
        half = mutual_scores([tokens])
        torch.testing.assert_close(half, expected, atol=tolerance, rtol=0)
        assert (half - expected).min() > -1e-5
        assert half.dtype == torch.float32
        assert torch.equal(mutual_scores([tokens[:1].repeat(3, 1, 1)]), torch.zeros(3, 16))


def test_a_mapped_pool_scores_like_one_in_memory() -> None:
    tokens = torch.randn(4, 9, 8)
    stored = pool.mapped(4, 9, 8)
    stored.copy_(tokens)
    assert torch.equal(mutual_scores([stored]), mutual_scores([tokens]))


def test_smoothing_takes_the_images_that_look_alike() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 2.0]])
    scores = torch.tensor([2.0, 4.0, 6.0, 10.0])
    scaled = [0.0, 0.25, 0.5, 1.0]
    two = [(0 + 0.8 * 0.25) / 1.8, (0.25 + 0.8 * 0) / 1.8, (0.5 + 1) / 2, (1 + 0.5) / 2]
    torch.testing.assert_close(smooth_scores(scores, embeddings, (2,)), torch.tensor(two))
    both = [(a + b) / 2 for a, b in zip(scaled, two, strict=True)]
    torch.testing.assert_close(smooth_scores(scores, embeddings, (1, 2)), torch.tensor(both))
    assert torch.equal(smooth_scores(torch.ones(4), embeddings), torch.zeros(4))
    torch.testing.assert_close(smooth_scores(scores, embeddings, (9,)), smooth_scores(scores, embeddings, (4,)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_scores([torch.randn(1, 4, 8)]), "at least 2 of them, got 1"),
        (lambda: mutual_scores([torch.randn(2, 4, 8)], (1, 2)), r"odd numbers.*got \(1, 2\)"),
        (lambda: mutual_scores([torch.randn(2, 4, 8)], ()), r"odd numbers.*got \(\)"),
        (lambda: mutual_scores([torch.randn(2, 4, 8)], nearest=0), "0 < nearest <= 1; got 0"),
        (
            lambda: scores_against([torch.randn(1, 4, 8)], [torch.randn(1, 4, 8)], torch.ones(1, 1, dtype=torch.bool)),
            "at least 1 of them, got 0",
        ),
        (lambda: smooth_scores(torch.rand(2), torch.rand(2, 3), (0, 1)), r"`neighbours`.*got \(0, 1\)"),
    ],
)
def test_what_is_no_pool_is_an_error(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_distance_of_embeddings_equals_a_loop() -> None:
    unit = torch.nn.functional.normalize(torch.randn(11, 4, generator=torch.manual_seed(0)), dim=-1)
    cosines = unit @ unit.T
    expected = []
    for index in range(11):
        others = sorted(1 - float(cosines[index, other]) for other in range(11) if other != index)
        expected.append(sum(others[:3]) / 3)  # 30 % of 10
    found = pool.mean_distance(cosines.fill_diagonal_(-torch.inf), 0.3)
    torch.testing.assert_close(found, torch.tensor(expected))
