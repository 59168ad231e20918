# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Tiles: cut, encoded, compared and joined, against naive loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan.clip.tiling import VIEWS_PER_PASS, Tiling
from anomalib_aprilgan.maps import few_shot_map, text_score, zero_shot_map
from anomalib_aprilgan.memory import BankOptions, nearest_distance, select_references
from anomalib_aprilgan.torch_model import AprilGanModel
from conftest import GOLDEN_SIZE, Models

STEP = GOLDEN_SIZE - GOLDEN_SIZE // 4
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def places(rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Where the tiles lie, row by row."""
    starts = itertools.product(range(0, rows * STEP, STEP), range(0, columns * STEP, STEP))
    return [(slice(top, top + GOLDEN_SIZE), slice(left, left + GOLDEN_SIZE)) for top, left in starts]


def weight(position: int, start: int, length: int) -> float:
    """Of a pixel of a row of ``length`` in the tile that starts there, by its distance from the tile's ends."""
    overlap, weight = GOLDEN_SIZE - STEP, 1.0
    if start > 0 and position - start < overlap:
        weight *= math.sin(math.pi / 2 * (position - start + 0.5) / overlap) ** 2
    if start + GOLDEN_SIZE < length and start + GOLDEN_SIZE - position <= overlap:
        weight *= math.sin(math.pi / 2 * (start + GOLDEN_SIZE - position - 0.5) / overlap) ** 2
    return weight


def naive_blend(tile_maps: Tensor, rows: int, columns: int) -> Tensor:
    """The map (H, W) of an image from those of its tiles (T, S, S)."""
    height, width = ((number - 1) * STEP + GOLDEN_SIZE for number in (rows, columns))
    total = torch.zeros(height, width)
    for own, (down, across) in zip(tile_maps, places(rows, columns), strict=True):
        vertical = torch.tensor([weight(y, down.start, height) for y in range(down.start, down.stop)])
        horizontal = torch.tensor([weight(x, across.start, width) for x in range(across.start, across.stop)])
        total[down, across] += own * vertical[:, None] * horizontal
    return total


@pytest.mark.parametrize("tiles", [(1, 2), (2, 2), (3, 2), (8, 8)])
def test_weights_add_up_to_one_without_seams(tiles: tuple[int, int]) -> None:
    tiling = Tiling(GOLDEN_SIZE, tiles)
    constant = tiling.blend(torch.full((2 * tiling.count, GOLDEN_SIZE, GOLDEN_SIZE), 3.0))
    assert constant.shape == (2, *tiling.size)
    torch.testing.assert_close(constant, torch.full_like(constant, 3.0), atol=1e-6, rtol=0)
    steps = torch.rand(tiling.count, 1, 1).expand(-1, GOLDEN_SIZE, GOLDEN_SIZE)  # tiles that disagree
    blended = tiling.blend(steps)[0]
    overlap = GOLDEN_SIZE - STEP
    for axis in (0, 1):
        assert blended.diff(dim=axis).abs().max() < 0.6 * math.pi / overlap
    torch.testing.assert_close(blended, naive_blend(steps, *tiles), **CLOSE)


@pytest.mark.parametrize(("tiles", "size"), [(1, (70, 70)), ([2, 3], (123, 176)), (4, (229, 229))])
def test_size_and_views(tiles: int | list[int], size: tuple[int, int]) -> None:
    tiling = Tiling(GOLDEN_SIZE, tiles)
    assert tiling.size == size
    assert not tiling.state_dict()
    if tiles == 1:
        return
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    views = tiling.views(images)
    whole = F.interpolate(images, size=(GOLDEN_SIZE, GOLDEN_SIZE), mode="bicubic", antialias=True)
    torch.testing.assert_close(views[:, 0], whole, **CLOSE)
    for number, (down, across) in enumerate(places(*tiling.tiles), start=1):
        assert torch.equal(views[:, number], images[..., down, across])
    with pytest.raises(ValueError, match=rf"\(B, 3, {size[0]}, {size[1]}\) for .* tiles, got \(2, 3, {size[0]}, 70\)"):
        tiling.views(images[..., :70])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, 3, 123, 176, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("aligned", [False, True])
def test_a_model_equals_a_naive_loop(make_model: Models, images: Tensor, aligned: bool) -> None:
    tiles = (2, 3)
    options = {"neighbourhoods": [1, 3], "reference_embeddings": True}
    model = make_model(tiles=list(tiles), aligned=aligned, **options).model
    single = make_model().model  # of a tile
    references = images[:3]
    assert len(images) - len(references) < VIEWS_PER_PASS < (len(images) - len(references)) * 7  # several passes
    encoded = model.encode(images[3:])
    assert [tokens.shape for tokens in encoded.stages] == [(2 * 6, 25, 64)] * 4
    target = model.make_target("bolt", references)
    text, maps = model.score_parts(encoded, target)
    _, plain = model.score_parts(encoded, model.make_target("bolt"))

    bank = BankOptions(neighbourhoods=(1, 3))
    known = [[single.encode(image[(None, slice(None), *place)]) for place in places(*tiles)] for image in references]
    for image, score, found, zero_shot in zip(images[3:], text, maps, plain, strict=True):
        whole = F.interpolate(image[None], size=(GOLDEN_SIZE, GOLDEN_SIZE), mode="bicubic", antialias=True)
        cut = [single.encode(image[(None, slice(None), *place)]) for place in places(*tiles)]
        every = torch.cat([single.encode(whole).embedding, *(each.embedding for each in cut)])
        expected = naive_blend(
            torch.cat([zero_shot_map(single.adapters(each.stages), target.text_features, GOLDEN_SIZE) for each in cut]),
            *tiles,
        )
        torch.testing.assert_close(zero_shot, expected, atol=1e-4, rtol=0)
        tile_maps = []
        for number, each in enumerate(cut):
            own = [other[number : number + 1] if aligned else other for other in known]
            rows = [zip(*(bank.rows(*part) for part in other), strict=True) for other in own]
            banks = [torch.cat([torch.cat(stage, 1) for stage in stages], 1)[0] for stages in zip(*rows, strict=True)]
            near = [
                nearest_distance(tokens, F.normalize(stored, dim=-1))
                for tokens, stored in zip(bank.compared(*each), banks, strict=True)
            ]
            tile_maps.append(few_shot_map(near, GOLDEN_SIZE) / 2)
        torch.testing.assert_close(found - zero_shot, naive_blend(torch.cat(tile_maps), *tiles), atol=1e-4, rtol=0)
        own_score = text_score(every, target.text_features).max()
        wholes = F.interpolate(references, size=(GOLDEN_SIZE, GOLDEN_SIZE), mode="bicubic", antialias=True)
        cosines = F.normalize(every[:1], dim=-1) @ F.normalize(single.encode(wholes).embedding, dim=-1).mT
        mixed = (own_score + 1 - torch.exp(-5 * (1 - cosines.max()))) / 2
        torch.testing.assert_close(score, mixed, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("aligned", [False, True])
def test_a_reference_can_be_left_out(make_model: Models, images: Tensor, aligned: bool) -> None:
    model: AprilGanModel = make_model(
        tiles=[1, 2], aligned=aligned, reference_embeddings=True, coreset_sampling_ratio=0.3
    ).model
    images = images[:, :, :GOLDEN_SIZE, : GOLDEN_SIZE + STEP]
    encoded = model.encode(images[3:])
    both = model.make_target("bolt", images[:2])
    alone = model.make_target("bolt", images[1:2])
    kept = model.banks.distances(model.banks.compared(*encoded), select_references(both.banks, [1], 2))
    expected = model.banks.distances(model.banks.compared(*encoded), alone.banks)
    for each, own in zip(kept, expected, strict=True):
        torch.testing.assert_close(each, own)
