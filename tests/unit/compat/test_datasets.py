# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's own data sets: hidden files, broken links, masks that do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from anomalib.data import MPDD, MVTecAD, Visa
from anomalib.data.datasets.image import mvtecad

from anomalib_aprilgan.compat.datasets import MAKERS, VALIDATE
from anomalib_aprilgan.data.listing import take_over_listing
from conftest import BOLT

FIRST, MASK = "test/scratch/000.png", "ground_truth/scratch/000_mask.png"


def copy(source: str, target: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)

    return change


def link(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).symlink_to("nowhere")


@pytest.fixture(params=[MVTecAD, MPDD, Visa])
def tested(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Path], object]], list[str]]:
    """Names of the test images of a data set after a change."""
    take_over_listing()
    # VisA's are prepared from a table: only its listing is tried
    folder = tmp_path / ("visa_pytorch" if request.param is Visa else "") / "bolt"
    shutil.copytree(BOLT, folder)

    def names(change: Callable[[Path], object]) -> list[str]:
        change(folder)
        data = request.param(tmp_path, "bolt", num_workers=0)
        data.setup()
        return sorted(str(Path(path).relative_to(folder)) for path in data.test_data.samples.image_path)

    return names


@pytest.mark.parametrize(
    "target",
    [
        "test/scratch/.ipynb_checkpoints/000-checkpoint.png",
        "test/.ipynb_checkpoints/000.png",
        "test/scratch/._000.png",
        "train/good/.ipynb_checkpoints/000.png",
        "ground_truth/scratch/.ipynb_checkpoints/000_mask.png",
        "__MACOSX/test/scratch/000.png",
    ],
)
def test_hidden_files_do_not_count(tested: Callable, target: str) -> None:
    assert tested(copy(FIRST, target)) == sorted(str(path.relative_to(BOLT)) for path in BOLT.glob("test/*/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link("test/scratch/9.png"), r"scratch/9\.png' is a broken link: remove it, and its image or mask"),
        (link("train/good/9.png"), r"good/9\.png' is a broken link"),
        (lambda root: (root / MASK).unlink(), r"every image of a defect needs a mask .* Without a mask: scratch/000\."),
        (lambda root: shutil.rmtree(root / "ground_truth"), "Without a mask: scratch/000, .*002 and 2 more"),
        (lambda root: (root / FIRST).unlink(), r"do not belong together.* Without an image: scratch/000\."),
        (copy(FIRST, "test/scratch/day/000.png"), "Without a mask: scratch/day/000"),
        (copy(MASK, "ground_truth/scratch/9.png"), "Without an image: scratch/9"),
        (
            lambda root: (root / MASK).rename(root / "ground_truth/scratch/x.png"),
            "mask: scratch/000. .*: scratch/x",
        ),
    ],
)
def test_what_does_not_fit_is_named(tested: Callable, change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tested(change)


def test_anomalib_still_counts_hidden_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, ``use_visible_files`` may go."""
    shutil.copytree(BOLT, tmp_path / "bolt")
    copy(FIRST, "test/scratch/._000.png")(tmp_path / "bolt")
    monkeypatch.setattr(mvtecad, "validate_path", VALIDATE[mvtecad])
    with pytest.raises(ValueError, match="equal len keys"):
        MAKERS[mvtecad, "make_mvtec_ad_dataset"](tmp_path / "bolt")
