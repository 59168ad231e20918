# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Data that can't be used stop a comparison before it trains anything, and are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anomalib_aprilgan.comparison import execution
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, ModelSpec, Training
from anomalib_aprilgan.comparison.sweep import GIB
from conftest import DATASET


def to_jpeg(paths: Iterable[Path]) -> None:
    for path in list(paths):
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


LEFT_OUT = r"reads \.png, \.PNG and would leave out {} images, such as .*\.jpg\. Correct or convert its files"
PAIRS = "every image of a defect needs a mask of its name. Without a mask: scratch/000.* Correct or convert"
FAULTS = {
    "all JPEG": (lambda bolt: to_jpeg(bolt.rglob("*.png")), LEFT_OUT.format(18)),
    "training images JPEG": (lambda bolt: to_jpeg(bolt.glob("train/**/*.png")), LEFT_OUT.format(4)),
    "a test folder JPEG": (lambda bolt: to_jpeg(bolt.glob("test/good/*.png")), LEFT_OUT.format(4)),
    "masks JPEG": (lambda bolt: to_jpeg(bolt.glob("ground_truth/**/*.png")), LEFT_OUT.format(5)),
    "a mask missing": (lambda bolt: remove(sorted(bolt.glob("ground_truth/*/*"))[:1]), PAIRS),
    "no masks": (lambda bolt: remove([bolt / "ground_truth"]), PAIRS),
    "no normal test images": (lambda bolt: remove([bolt / "test/good"]), "It has no normal test images"),
    "no defects": (
        lambda bolt: remove([*bolt.glob("test/[!g]*"), *bolt.glob("ground_truth/*")]),
        "It has no abnormal test images",
    ),
    "a damaged test image": (lambda bolt: cut(bolt / "test/good/000.png"), "1 of its images can't be read. .*000.png"),
    "damaged training images": (
        lambda bolt: [cut(path) for path in bolt.glob("train/good/*")],
        "1 of its images can't be read. .*train.*Correct its training images",
    ),
    "no training images": (
        lambda bolt: remove([bolt / "train"]),
        "It has no normal training images to draw references from. Correct its training images, or leave it out",
    ),
}


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A comparison that would train adapters and run on the category bolt of a copy of the goldens' data set."""
    monkeypatch.setattr("anomalib_aprilgan.comparison.training._train", lambda *_: pytest.fail("adapters were trained"))
    shutil.copytree(DATASET, tmp_path / "data")
    data = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(tmp_path / "data")}}
    arguments = {"auxiliary": data, "categories": ["fabric"]}
    training = Training({"class_path": "anomalib_aprilgan.AuxiliaryDataModule", "init_args": arguments})
    models = {"A": ModelSpec("anomalib_aprilgan.AprilGan", {}, train=training)}
    return Grid(models, {"parts": DataSpec(**data, categories=["fabric", "bolt"])}, [0, 1], [0], 70, 0, {})


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_unusable_data_are_named_before_adapters_are_trained(
    tmp_path: Path, grid: Grid, spoil: Callable, message: str
) -> None:
    spoil(tmp_path / "data/bolt")
    with pytest.raises(ValueError, match=f"^The category 'bolt' of the data set 'parts' can't be used: .*{message}"):
        execution.run_grid(grid, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_a_hidden_preview_is_no_image_that_is_left_out(tmp_path: Path, grid: Grid) -> None:
    for name in ("preview.jpg", "test/good/.000.jpg"):
        shutil.copyfile(tmp_path / "data/bolt/test/good/000.png", tmp_path / "data/bolt" / name)
    with pytest.raises(pytest.fail.Exception, match="adapters were trained"):
        execution.run_grid(grid, tmp_path / "output")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda fabric: cut(sorted(fabric.glob("test/*/000.png"))[0]),
            "1 of 9 training images can't be used.*truncated",
        ),
        (lambda fabric: remove([fabric / "ground_truth"]), "do not belong together"),
        (lambda fabric: remove([fabric]), r"`categories` \['fabric'\] are not in the auxiliary data set"),
        (lambda fabric: remove([fabric.parent]), "The `root` .* of `models.A.train` does not exist"),
    ],
)
def test_unusable_training_data_are_named(tmp_path: Path, grid: Grid, spoil: Callable, message: str) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "target")
    spec = replace(grid.datasets["parts"], init_args={"root": str(tmp_path / "target")})
    spoil(tmp_path / "data/fabric")
    with pytest.raises((ValueError, FileNotFoundError), match=f"`models.A.train`.*{message}|{message}"):
        execution.run_grid(replace(grid, datasets={"parts": spec}), tmp_path / "output")


@pytest.mark.parametrize("images", [0, 3, 100])
def test_training_images_are_held_in_a_quarter_of_the_limit(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    held = []
    monkeypatch.setattr("anomalib_aprilgan.comparison.training._train", lambda _, data, *__: held.append(data))
    monkeypatch.setattr(execution, "_results", lambda *_: ())
    with Image.open(next((tmp_path / "data/fabric/test").rglob("*.png"))) as image:
        size = 3 * image.width * image.height
    execution.run_grid(grid, tmp_path / "output", memory_limit=4 * (images + 0.1) * size / GIB)
    files, samples = held[0].train_data.files, held[0].train_data.samples
    everything = len(samples) * size + int(samples.label_index.sum()) * size // 3
    assert files.nbytes == min(images * size, everything)
