# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Memory banks with turned copies, local means and embeddings, against naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomalib_aprilgan.memory import BankOptions, local_means, select_references, turned
from anomalib_aprilgan.torch_model import AprilGanModel
from conftest import Models

SIDE = 5
SYMMETRIES = [
    *(lambda image, n=n: image.rot90(n, (-2, -1)) for n in range(4)),
    *(lambda image, n=n: image.flip(-1).rot90(n, (-2, -1)) for n in range(4)),
]


@pytest.fixture(scope="module")
def model(make_model: Models) -> AprilGanModel:
    return make_model().model


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def naive_means(tokens: Tensor, r: int) -> Tensor:
    """By loops over patches and their neighbours within the image (N, D)."""
    found = []
    for y in range(SIDE):
        for x in range(SIDE):
            near = [
                tokens[row * SIDE + column]
                for row in range(y - r // 2, y + r // 2 + 1)
                for column in range(x - r // 2, x + r // 2 + 1)
                if 0 <= row < SIDE and 0 <= column < SIDE
            ]
            found.append(sum(near) / len(near))
    return torch.stack(found)


def test_local_means() -> None:
    tokens = torch.randn(2, SIDE**2, 3, generator=torch.manual_seed(0))
    for r in (1, 3, 5):
        expected = torch.stack([naive_means(each, r) for each in tokens])
        torch.testing.assert_close(local_means(tokens, r), expected)


def test_turned_copies_are_the_eight_symmetries_of_a_square() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    copies = turned(image, 8)
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == 8
    assert torch.equal(copies[0], image[0])
    assert torch.equal(turned(image, 4), copies[:4])
    assert all(copy.sort().values.sum() == image.sum() for copy in copies.flatten(1))


@torch.no_grad()
@pytest.mark.parametrize(("rotations", "neighbourhoods", "embeddings"), [(4, (3,), False), (8, (1, 3, 5), True)])
def test_equals_naive_loop(
    model: AprilGanModel, golden_images: Tensor, rotations: int, neighbourhoods: tuple[int, ...], embeddings: bool
) -> None:
    model.banks = BankOptions(rotations=rotations, neighbourhoods=neighbourhoods, embeddings=embeddings)
    references, images = golden_images[:2], golden_images[9:12]
    text, plain = model.score_parts(model.encode(images), model.make_target("bolt"))
    scores, maps = model.score_parts(model.encode(images), model.make_target("bolt", references))

    copies = [model.encode(turn(image)[None]) for image in references for turn in SYMMETRIES[:rotations]]
    for image, score, found, own_text, own_map in zip(images, scores, maps, text, plain, strict=True):
        encoded = model.encode(image[None])
        expected = torch.zeros(SIDE, SIDE)
        for stage in range(4):
            for r in neighbourhoods:
                queries = unit(naive_means(encoded.stages[stage][0], r))
                rows = torch.cat([unit(naive_means(copy.stages[stage][0], r)) for copy in copies])
                expected += (1 - (queries @ rows.T).amax(dim=1)).view(SIDE, SIDE) / len(neighbourhoods)
        grid = found - own_map  # align_corners: the corners of the map are those of the grid
        corners = ([0, 0, -1, -1], [0, -1, 0, -1])
        torch.testing.assert_close(grid[corners], expected[corners], atol=1e-5, rtol=1e-4)
        distance = min(float(1 - unit(encoded.embedding[0]) @ unit(copy.embedding[0])) for copy in copies)
        mixed = (own_text + 1 - math.exp(-5 * distance)) / 2 if embeddings else own_text
        assert score.item() == pytest.approx(float(mixed), abs=1e-6)


@torch.no_grad()
def test_a_reference_can_be_left_out(model: AprilGanModel, golden_images: Tensor) -> None:
    """Its rows, of all copies, are its own part of each bank: thresholds need that."""
    model.banks = BankOptions(0.5, rotations=4, neighbourhoods=(1, 3), embeddings=True)
    both = model.make_target("bolt", golden_images[:2]).banks
    for k in range(2):
        (*alone,) = model.make_target("bolt", golden_images[k : k + 1]).banks
        for kept, expected in zip(select_references(both, [k], 2), alone, strict=True):
            torch.testing.assert_close(kept, expected)


@torch.no_grad()
def test_off_by_default(model: AprilGanModel, golden_images: Tensor) -> None:
    model.banks = BankOptions()
    encoded = model.encode(golden_images[9:])
    assert all(ours is theirs for ours, theirs in zip(BankOptions().compared(*encoded), encoded.stages, strict=True))
    assert BankOptions().changed == ""
    assert BankOptions(0.5, True).changed == ""
    assert BankOptions(rotations=4, neighbourhoods=[1, 3]).changed == "rotations 4, neighbourhoods (1, 3)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coreset_sampling_ratio": 0}, "must be a fraction"),
        ({"rotations": 2}, "must be 1, 4 or 8 copies"),
        ({"neighbourhoods": ()}, "must be different odd numbers"),
        ({"neighbourhoods": (2,)}, "must be different odd numbers"),
        ({"neighbourhoods": (3, 3)}, "must be different odd numbers"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BankOptions(**options)
