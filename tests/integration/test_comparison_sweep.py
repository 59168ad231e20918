# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of an AprilGan that share a pass over the test images, against the same runs alone."""

from __future__ import annotations

from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.comparison.sweep import run_portion
from conftest import DATASET

MVTEC = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
MEASURED = {"seconds_per_image", "peak_memory_mib", "finished", "sweep_seconds", "sweep_runs"}


def grid_of(spec: ModelSpec, data: DataSpec = MVTEC, **options: object) -> Grid:
    defaults = {"shots": [0, 1, 2], "seeds": [0, 1], "mask_size": 70, "thumbnails": 0}
    return Grid({"model": spec}, {"goldens": data}, **{**defaults, "trainer": {"accelerator": "cpu"}, **options})


def jobs_of(grid: Grid, category: str = "bolt") -> list[Job]:
    return grid.jobs({"goldens": [category]}, {"model": grid.shots})


def results(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in MEASURED}


def test_rows_are_those_of_single_runs(tiny_arguments: dict) -> None:
    grid = grid_of(ModelSpec("anomalib_aprilgan.AprilGan", tiny_arguments), mask_size=64)
    outcomes, rest, why = run_portion(grid, jobs_of(grid))
    outcomes = list(outcomes)
    assert (rest, why) == ([], "")
    for job, row, _ in outcomes:
        assert row["error"] is None, row["traceback"]
        assert results(row) == results(run_job(grid, job)[1])
