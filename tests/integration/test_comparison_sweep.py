# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of an AprilGan that share a pass over the test images, against the same runs alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from PIL import Image

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.comparison import ground_truth, models, shared_pass, sweep
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.comparison.sweep import count_fitting, run_portion
from anomalib_aprilgan.torch_model import AprilGanModel
from conftest import BOLT, DATASET, Models

MEASURED = {"seconds_per_image", "peak_memory_mib", "finished", "sweep_seconds", "sweep_runs"}
N_IMAGES, N_REFERENCES = 9, 4  # of the category bolt
FOLDERS = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
GridOf = Callable[..., Grid]


def mvtec(root: Path = DATASET) -> DataSpec:
    arguments = {"root": str(root), "num_workers": 0, "eval_batch_size": 4}
    return DataSpec("anomalib.data.MVTecAD", arguments, ["bolt"])


@pytest.fixture
def grid_of(tiny_arguments: dict) -> GridOf:
    """Makes a comparison of the goldens' model on the goldens' data set."""

    def make(
        arguments: dict | None = None, data: DataSpec | None = None, kind: str = "anomalib_aprilgan.AprilGan", **options
    ) -> Grid:
        spec = ModelSpec(kind, {**tiny_arguments, **(arguments or {})})
        defaults = {"shots": [0, 1, 2], "seeds": [0, 1], "mask_size": 64, "thumbnails": 2}
        trainer = {"accelerator": "cpu"}
        return Grid({"model": spec}, {"goldens": data or mvtec()}, **{**defaults, "trainer": trainer, **options})

    return make


@pytest.fixture
def bolts(tmp_path: Path) -> Path:
    """A copy of the goldens' data set with the category bolt."""
    shutil.copytree(BOLT, tmp_path / "data" / "bolt")
    return tmp_path / "data"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of the encoder."""
    calls: list[int] = []
    forward = ClipEncoder.forward
    counted = lambda self, images: (calls.append(len(images)), forward(self, images))[1]  # noqa: E731
    monkeypatch.setattr(ClipEncoder, "forward", counted)
    return calls


def jobs_of(grid: Grid) -> list[Job]:
    return grid.jobs({"goldens": ["bolt"]}, {"model": grid.shots})


def run_all(grid: Grid, **options: Any) -> list[tuple[Job, dict, Any]]:
    outcomes, waiting = [], jobs_of(grid)
    while waiting:
        done, waiting, _ = run_portion(grid, waiting, **options)
        outcomes.extend(done)
    return outcomes


def results(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in MEASURED}


def assert_equal_to_single_runs(grid: Grid, outcomes: list[tuple[Job, dict, Any]]) -> None:
    assert [job for job, _, _ in outcomes] == jobs_of(grid)
    for job, row, thumbnails in outcomes:
        _, alone, its_thumbnails = run_job(grid, job)
        assert alone["error"] is None, alone["traceback"]
        assert results(row) == results(alone)
        assert (thumbnails is None) == (its_thumbnails is None)
        for name in thumbnails or {}:
            np.testing.assert_array_equal(thumbnails[name], its_thumbnails[name])


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, {}),
        ({}, {"trainer": {"accelerator": "cpu", "precision": "bf16-mixed"}, "mask_size": 70}),
        ({"coreset_sampling_ratio": 0.5, "half_precision_memory": True, "class_name": "screw"}, {"seeds": [1]}),
    ],
)
def test_rows_are_those_of_single_runs(grid_of: GridOf, encoded: list[int], arguments: dict, options: dict) -> None:
    grid = grid_of(arguments, **options)
    outcomes = run_all(grid)
    distinct = {path for _, row, _ in outcomes for path in row["references"]}
    assert sum(encoded) == N_IMAGES + len(distinct)
    assert {row["sweep_runs"] for _, row, _ in outcomes} == {len(outcomes)}
    assert all(0 < row["seconds_per_image"] < row["sweep_seconds"] for _, row, _ in outcomes)
    assert_equal_to_single_runs(grid, outcomes)


def test_a_run_costs_what_it_costs_alone(grid_of: GridOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoding counts for each run, the scoring of other runs for none."""
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(shared_pass, "now", lambda _: float(next(clock)))
    outcomes = run_all(grid_of())
    # A second for the encoding and one for the scoring of each of two batches; the first batch of four does not count.
    assert [row["seconds_per_image"] for _, row, _ in outcomes] == pytest.approx([2 * 2 / (N_IMAGES - 4)] * 5)


def test_portions(grid_of: GridOf, encoded: list[int]) -> None:
    grid = grid_of()
    maps = N_IMAGES * 64**2 * 4
    outcomes, rest, why = run_portion(grid, jobs_of(grid), limit=1.0)
    (_, first, _), *others = outcomes
    assert others == []
    assert (rest, first["sweep_runs"], sum(encoded)) == (jobs_of(grid)[1:], 1, N_IMAGES + 1)  # one tells the size
    assert why.startswith("Maps and memory banks of 5 runs need 0.00")
    everything = run_all(grid)
    encoded.clear()
    in_parts = run_all(grid, limit=6.2 * maps, workers=2)
    assert [row["sweep_runs"] for _, row, _ in in_parts] == [2, 2, 2, 2, 1]
    assert sum(encoded) < 4 * N_IMAGES
    assert [results(row) for _, row, _ in in_parts] == [results(row) for _, row, _ in everything]


@pytest.mark.parametrize(
    ("costs", "limits", "expected"),
    [
        ([[2], [4], [6]], [5], 2),
        ([[2], [4], [6]], [1], 1),
        ([[2], [4], [6]], [6], 3),
        ([[2, 0], [4, 9], [6, 9]], [100, 5], 1),
        ([[2, 0], [4, 3], [6, 9]], [5, 9], 2),
    ],
)
def test_count_fitting(costs: list, limits: list, expected: int) -> None:
    assert count_fitting(np.asarray(costs), np.asarray(limits)) == expected


def test_half_of_the_free_memory(grid_of: GridOf, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of(shots=[1], seeds=[0, 1, 2])
    monkeypatch.setattr(sweep, "free_memory", lambda _: (1, 1))
    assert len(run_portion(grid, jobs_of(grid))[1]) == 2
    monkeypatch.setattr(sweep, "free_memory", lambda _: (2**40, 1))  # on the CPU both are one
    assert run_portion(grid, jobs_of(grid))[1] == []


def test_a_damaged_reference_fails_its_own_runs(grid_of: GridOf, bolts: Path) -> None:
    grid = grid_of(data=mvtec(bolts), seeds=[0, 1, 2])
    used = {job: row["references"] for job, row, _ in run_all(grid)}
    damaged = used[Job("model", "goldens", "bolt", 1, 0)][0]
    (bolts / damaged).write_bytes(b"no image")
    for job, row, _ in run_all(grid):
        if damaged in used[job]:
            assert row["status"] == "failed"
            assert f"{Path(damaged).name}' can't be read as an image" in row["error"]
        else:
            assert results(row) == results(run_job(grid, job)[1])
    assert 1 < sum(damaged in paths for paths in used.values()) < len(used)


def test_scores_that_are_not_finite_fail_their_own_run(grid_of: GridOf, monkeypatch: pytest.MonkeyPatch) -> None:
    score_parts, grid = AprilGanModel.score_parts, grid_of()

    def broken(self: AprilGanModel, encoded: Any, target: Any, zero_shot: Any = None) -> Any:
        text, maps = score_parts(self, encoded, target, zero_shot)
        rows = len(target.banks[0]) if target.banks else 0
        return text, maps * torch.nan if rows == 2 * 25 else maps

    monkeypatch.setattr(AprilGanModel, "score_parts", broken)
    outcomes = run_all(grid)
    assert [row["status"] for _, row, _ in outcomes] == ["ok", "ok", "ok", "failed", "failed"]
    assert "The scores are not finite numbers for" in outcomes[-1][1]["error"]


def test_a_precision_that_turns_all_weights(grid_of: GridOf) -> None:
    for _, row, _ in run_all(grid_of(trainer={"accelerator": "cpu", "precision": "bf16-true"})):
        assert "`precision` 'bf16-true' turns weights" in row["error"]


def test_too_few_references_and_a_damaged_test_image(grid_of: GridOf, bolts: Path) -> None:
    grid = grid_of(data=mvtec(bolts), shots=[0, 9], seeds=[0])
    (_, zero, _), (_, nine, _) = run_all(grid)
    assert zero["error"] is None
    assert f"`k_shot` 9 is larger than the number of normal reference images, {N_REFERENCES}" in nine["error"]
    next((bolts / "bolt" / "test" / "good").glob("*.png")).write_bytes(b"no image")
    (_, zero, _), (_, nine, _) = run_all(grid)
    assert {zero["status"], nine["status"]} == {"failed"}
    assert "`k_shot` 9" in nine["error"]


class Unseeded(Folder):
    """Draws half of the test images for validation, with the seed of the run."""

    seed = property(lambda _self: None, lambda _self, _seed: None)


def test_images_that_depend_on_the_seed_need_a_pass_each(grid_of: GridOf) -> None:
    arguments = {"name": "bolt", "root": str(BOLT), "num_workers": 0, **FOLDERS, "mask_dir": "ground_truth/scratch"}
    grid = grid_of(data=DataSpec(f"{__name__}.Unseeded", arguments), shots=[1, 2], seeds=[0, 1])
    _, rest, why = run_portion(grid, jobs_of(grid))
    assert ([job.seed for job in rest], why) == ([1, 1], "The test images depend on the seed.")
    outcomes = sorted(run_all(grid), key=lambda each: jobs_of(grid).index(each[0]))
    assert [row["sweep_runs"] for _, row, _ in outcomes] == [2] * 4
    assert_equal_to_single_runs(grid, outcomes)


class Doubled(AprilGan):
    """Predicts otherwise than AprilGan."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        batch = super().predict_step(batch, batch_idx, dataloader_idx)
        return batch.update(anomaly_map=-batch.anomaly_map)


class Screws(AprilGan):
    """Does all that AprilGan does, and more."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def describe(self) -> str:
        return "finds defects of screws"


class OwnModel(AprilGan):
    """Scores otherwise than AprilGan."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model.__class__ = type("Own", (AprilGanModel,), {"score": lambda *_: None})


@pytest.mark.parametrize(
    ("kind", "arguments", "trainer", "expected"),
    [
        (AprilGan, {}, {"precision": "bf16-mixed"}, True),
        (Screws, {}, {}, True),
        (Doubled, {}, {}, False),
        (OwnModel, {}, {}, False),
        (AprilGan, {"adapters": None}, {}, False),
        (AprilGan, {}, {"limit_val_batches": 2}, False),
    ],
)
def test_which_models_can_share_a_pass(
    make_model: Models, tiny_arguments: dict, kind: type, arguments: dict, trainer: dict, expected: bool
) -> None:
    assert models.can_be_swept(kind(**{**tiny_arguments, **arguments}), trainer) is expected


@pytest.mark.parametrize(("kind", "passes"), [(Screws, 1), (Doubled, 5)])
def test_derived_models(grid_of: GridOf, encoded: list[int], kind: type, passes: int) -> None:
    grid = grid_of(kind=f"{__name__}.{kind.__name__}", shots=[0, 1], seeds=[0, 1], thumbnails=0)
    outcomes = run_all(grid)
    assert sum(encoded) // N_IMAGES == passes
    assert_equal_to_single_runs(grid, outcomes)


def test_masks_are_read_once(grid_of: GridOf, bolts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_masks, weights = ground_truth.read_masks, ground_truth.overlap_weights
    monkeypatch.setattr(ground_truth, "read_masks", lambda paths: (read.extend(paths), read_masks(paths))[1])
    monkeypatch.setattr(ground_truth, "overlap_weights", lambda masks: (read.append("weights"), weights(masks))[1])
    grid = grid_of(data=mvtec(bolts))
    before = run_all(grid)
    assert len(read) == before[0][1]["n_abnormal"] + 1
    Image.new("L", (96, 96)).save(read[0])  # a mask that is corrected is read again
    assert run_all(grid)[0][1]["pixel_AUROC"] != before[0][1]["pixel_AUROC"]
