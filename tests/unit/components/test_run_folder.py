# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""No run replaces, or mixes with, what another has written."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalib_aprilgan.components.run_folder import claim, settle
from conftest import BOLT, GOOD, Engines, Models, golden_data


def contents(root: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Of each run, the images in its table and those with a picture."""
    found = {}
    for table in sorted(root.rglob("predictions*.csv")):
        with table.open() as file:
            rows = [row["image_path"] for row in csv.DictReader(file)]
        assert len(set(rows)) == len(rows)
        pictures = {path.name for path in table.parent.glob("images/**/*.png")}
        found[table.parent.name] = ({Path(row).name for row in rows}, pictures)
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def test_a_second_prediction_leaves_the_first_alone(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    for folder in (GOOD, BOLT / "test" / "scratch"):
        engine(tmp_path).predict(make_model(class_name="bolt", visualizer=True), data_path=folder)
    first, second = names(GOOD), names(BOLT / "test" / "scratch")
    assert contents(tmp_path) == {"v0": (first, first), "v1": (second, second)}
    assert (tmp_path / "AprilGan" / "latest").resolve().name == "v1"


def test_runs_after_a_training_have_its_checkpoint(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """anomalib writes the pictures of all of them into v0, and its next training dies of a folder called latest."""
    model = make_model(visualizer=True)
    latest = tmp_path / "AprilGan" / "MVTecAD" / "bolt" / "latest"
    for action in ("test", "train", "test", "predict"):
        kept = latest / "weights" / "lightning" / "model.ckpt"
        path = {} if action == "train" or not kept.exists() else {"ckpt_path": kept}
        getattr(engine(tmp_path), action)(model, datamodule=golden_data(eval_batch_size=4), **path)
    runs = {path.name: len(list(path.glob("images/**/*.png"))) for path in latest.parent.glob("v*")}
    assert runs == {"v0": 9, "v1": 9, "v2": 9, "v3": 9}
    assert {
        path.parent.name: len(path.read_text().splitlines()) for path in latest.parent.glob("v*/*.csv")
    } == dict.fromkeys(runs, 1 + 9)
    assert (latest / "weights" / "lightning" / "model.ckpt").samefile(kept)


@pytest.mark.parametrize("before", ["nothing", "a folder called latest"])
def test_runs_at_once_take_different_folders(tmp_path: Path, before: str) -> None:
    latest = tmp_path / "latest"
    if before != "nothing":
        (latest / "weights").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda number: claim(settle(latest), f"{number}\n"), range(8)))
    assert {path.name for path in claimed} == {f"v{number}" for number in range(8)}
    assert all((path / "weights").is_dir() == (before != "nothing") for path in claimed)
    assert latest.is_symlink()
    assert sorted((path / "predictions.csv").read_text() for path in claimed) == [f"{number}\n" for number in range(8)]
