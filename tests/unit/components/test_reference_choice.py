# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Images that cover a folder: k-center, copies and outliers, the contact sheet."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components.reference_choice import choose, draw, find_outliers, k_center
from conftest import BOLT


def radius(distances: torch.Tensor, chosen: tuple[int, ...]) -> float:
    return float(distances[:, chosen].amin(dim=1).max())


@pytest.mark.parametrize("seed", range(3))
def test_k_center_begins_in_the_middle_and_is_at_most_twice_the_best(seed: int) -> None:
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
    distances = torch.cdist(points, points)
    chosen, radii = k_center(distances, 4)
    assert chosen[0] == distances.sum(dim=0).argmin()
    assert len(set(chosen)) == 4
    for number in range(1, 5):
        assert radii[number - 1] == radius(distances, tuple(chosen[:number]))
        best = min(radius(distances, each) for each in itertools.combinations(range(9), number))
        assert best <= radii[number - 1] <= 2 * best


def test_points_far_from_all_others_are_outliers_and_small_groups_are_not() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(4.0))
    group = torch.tensor([[30.0, 0.0], [31.0, 0.0], [30.0, 1.0], [31.0, 1.0]])
    points = torch.cat([grid, group, torch.tensor([[0.0, 60.0]])]).double()
    assert list(find_outliers(torch.cdist(points, points))) == [24]
    assert not find_outliers(torch.zeros(1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of bolts, two copies, an image of another thing, and a file that is none."""
    good = Path(shutil.copytree(BOLT / "train" / "good", tmp_path / "good"))
    for path in (BOLT / "test" / "good").iterdir():
        shutil.copy(path, good / f"t{path.name}")
    shutil.copy(good / "000.png", good / "copy.png")
    Image.open(good / "001.png").save(good / "same.bmp")
    Image.new("RGB", (70, 70), (255, 0, 0)).save(good / "red.png")
    (good / "broken.png").write_bytes(b"no image")
    return good


def test_a_folder_is_covered_without_copies_and_outliers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = AprilGan("demo", "demo", 224, adapters="demo")
    choice = choose(module.model, module.reference_transform, folder, 8)
    assert {Path(path).name: Path(other).name for path, other in choice.copies.items()} == {
        "copy.png": "000.png",
        "same.bmp": "001.png",
    }
    assert [Path(path).name for path in choice.outliers] == ["red.png"]
    assert sorted(Path(path).name for path in choice.chosen) == [f"{t}00{n}.png" for t in ("", "t") for n in range(4)]
    assert choice.radii[-1] == 0
    assert choice.radii == sorted(choice.radii, reverse=True)
    assert "broken.png" in caplog.text
    fewer = choose(module.model, module.reference_transform, folder, 3)
    assert fewer.chosen == choice.chosen[:3]
    assert fewer.radii == choice.radii[:3]
    assert fewer.farthest == choice.chosen[3]
    draw(fewer, folder.parent / "sheet.png")
    with Image.open(folder.parent / "sheet.png") as sheet:
        assert sheet.size == (1584, 300)  # a row
    for k, message in ((0, "from 1 to 10 .*got 0"), (12, "from 1 to 10"), (9, "from 1 to 8 .*2 copies .*red.png")):
        with pytest.raises(ValueError, match=message):
            choose(module.model, module.reference_transform, folder, k)
