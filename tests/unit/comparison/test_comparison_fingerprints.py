# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Results of files that have changed do not mix with those of before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anomalib_aprilgan.comparison import execution
from anomalib_aprilgan.comparison.datasets import build_datamodule
from anomalib_aprilgan.comparison.fingerprints import argument_fingerprints
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec, Training
from anomalib_aprilgan.comparison.results import FILE, append_row, read_results, read_rows
from anomalib_aprilgan.comparison.runs import Outcome
from anomalib_aprilgan.comparison.training import training_fingerprints, with_adapters
from conftest import DATASET
from made_rows import made_row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a data set and files that arguments name."""
    shutil.copytree(DATASET, tmp_path / "data")
    for name in ("adapters.pth", "prompts.yaml", "other.pth"):
        (tmp_path / name).write_text("old")
    return tmp_path


def run_nothing(_: Grid, jobs: Sequence[Job], **_limits: object) -> tuple[list[Outcome], list[Job], str]:
    return [(job, made_row(job, adapters_sha256=None), None) for job in jobs], [], ""


@pytest.fixture
def grid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A comparison whose runs only count themselves."""

    monkeypatch.setattr(execution, "run_portion", run_nothing)
    arguments = {"adapters": str(folder / "adapters.pth"), "prompts": str(folder / "prompts.yaml")}
    return Grid(
        models={"A": ModelSpec("anomalib_aprilgan.AprilGan", arguments)},
        datasets={"parts": DataSpec("anomalib.data.MVTecAD", {"root": str(folder / "data")}, ["bolt"])},
        shots=[0, 1],
        seeds=[0],
        mask_size=70,
        thumbnails=0,
        trainer={},
    )


def reference(folder: Path) -> Path:
    rows = read_rows(folder / "output" / FILE)
    assert [row["shots"] for row in rows] == [0, 1]
    return next(iter(sorted((folder / "data/bolt/train/good").iterdir())))


def replace_reference(folder: Path) -> None:
    for path in (folder / "data/bolt/train/good").iterdir():
        shutil.copyfile(DATASET / "bolt/test/good/000.png", path)


def relabel(folder: Path) -> None:
    test = folder / "data/bolt/test"
    (defect,) = sorted(test.glob("*/000.png"))[1:2]
    shutil.copyfile(test / "good/000.png", defect)


def replace_root(folder: Path) -> None:
    (folder / "data").rename(folder / "before")
    shutil.copytree(folder / "before", folder / "data")
    shutil.rmtree(folder / "data/bolt")
    shutil.copytree(folder / "before/fabric", folder / "data/bolt")


CHANGES = {
    "adapters": (lambda folder: (folder / "adapters.pth").write_text("new"), "The adapters of A differ"),
    "prompts": (lambda folder: (folder / "prompts.yaml").write_text("new"), "The prompts of A differ"),
    "references": (replace_reference, "The references of parts/bolt/1/0 differ"),
    "a test image": (relabel, "The test images of parts/bolt differ"),
    "a mask": (
        lambda folder: shutil.copyfile(*sorted((folder / "data/bolt/ground_truth").rglob("*.png"))[:2]),
        "The test images of parts/bolt differ",
    ),
    "one test image fewer": (
        lambda folder: (folder / "data/bolt/test/good/000.png").unlink(),
        "The test images of parts/bolt differ",
    ),
    "the root": (replace_root, "The test images of parts/bolt differ"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("other_model", [False, True])
def test_changed_files_are_refused(folder: Path, grid: Grid, change: Callable, message: str, other_model: bool) -> None:
    output = folder / "output"
    assert execution.run_grid(grid, output) == []
    before = (output / FILE).read_bytes()
    assert execution.run_grid(grid, output) == []
    assert (output / FILE).read_bytes() == before
    change(folder)
    if other_model:  # the rows of A would be beside those of B
        grid = replace(grid, models={"B": replace(grid.models["A"], init_args={})})
        if "of A" in message:
            assert execution.run_grid(grid, output) == []
            return
    with pytest.raises(ValueError, match=rf"{message} .*{FILE}.* choose another `output`, or delete"):
        execution.run_grid(grid, output)
    assert (output / FILE).read_bytes() == before


def test_the_same_content_under_other_names_and_times_is_no_change(folder: Path, grid: Grid) -> None:
    output = folder / "output"
    execution.run_grid(grid, output)
    before = (output / FILE).read_bytes()
    os.utime(folder / "adapters.pth", (0, 0))
    good = folder / "data/bolt/test/good"
    (good / "000.png").rename(good / "zzz.png")
    execution.run_grid(replace(grid, shots=[1, 0]), output)
    assert (output / FILE).read_bytes() == before


def test_a_change_during_the_comparison(folder: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **limits: object) -> object:
        (folder / "prompts.yaml").write_text("new")
        return run_nothing(*arguments, **limits)

    monkeypatch.setattr(execution, "run_portion", run)
    with pytest.raises(ValueError, match="The prompts of A differ"):
        execution.run_grid(grid, folder / "output")
    assert not (folder / "output" / FILE).exists()


def test_rows_of_before_are_read_and_completed(folder: Path, grid: Grid) -> None:
    output = folder / "output"
    old = {"settings": grid.settings("A", "parts"), "adapters_sha256": "a"}
    append_row(output / FILE, made_row(Job("A", "parts", "bolt", 0, 0), **old))
    execution.run_grid(grid, output)
    assert [row["shots"] for row in read_rows(output / FILE)] == [0, 1]


@pytest.mark.parametrize("field", ["adapters_sha256", "fingerprints"])
def test_mixed_results_make_no_table(tmp_path: Path, field: str) -> None:
    for seed, found in ((0, "one"), (1, "other")):
        value = {"fingerprints": {"adapters": found}, "adapters_sha256": found}[field]
        append_row(tmp_path / FILE, made_row(Job("A", "parts", "bolt", 1, seed), **{field: value}))
    with pytest.raises(ValueError, match=r"The adapters.* of A.* are not the same in all results in .*a table would"):
        read_results(tmp_path)


def test_arguments_that_name_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "data/config.json").write_text("{}")
    arguments = {
        "backbone": "resnet18",
        "nested": {"list": ["other.pth", 1]},
        "pretrained": f"local-dir:{folder}/data",
        "word": "data",
        "empty": "",
        "layers": [1, 2],
    }
    assert set(argument_fingerprints(arguments)) == {"nested", "pretrained"}


def test_adapters_are_trained_anew_when_the_training_images_change(folder: Path, grid: Grid) -> None:
    auxiliary = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(folder / "data")}}
    data = {
        "class_path": "anomalib_aprilgan.AuxiliaryDataModule",
        "init_args": {"auxiliary": auxiliary, "categories": ["fabric"]},
    }
    grid = replace(grid, models={"A": ModelSpec("anomalib_aprilgan.AprilGan", {}, train=Training(data))})

    def adapters() -> str:
        paths = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("anomalib_aprilgan.comparison.training._train", lambda *given: paths.append(given[2]))
            with_adapters(grid, folder / "output", training_fingerprints(grid), {"A"})
        return paths[0]

    first = adapters()
    assert adapters() == first
    masks = sorted((folder / "data/fabric/ground_truth").rglob("*.png"))
    shutil.copyfile(masks[1], masks[0])
    assert adapters() != first
    json.dumps(training_fingerprints(grid))


def test_all_seeds_test_the_same_images_of_a_random_split() -> None:
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
    spec = DataSpec("anomalib.data.Folder", {"name": "parts", "root": str(DATASET / "bolt"), **folders})
    tested = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        datamodule = build_datamodule(spec, None)
        datamodule.setup()
        tested.append(sorted(map(str, datamodule.test_data.samples.image_path)))
    assert tested[0] == tested[1] == tested[2]
    assert len(tested[0]) > 1
