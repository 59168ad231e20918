# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The grid's configuration and the results file."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec, read_datasets, read_models
from anomalib_aprilgan.comparison.results import SCHEMA, append_row, finished, read_results, read_rows, repair

GRID = Grid(
    models={"a": ModelSpec("x.A"), "b": ModelSpec("x.B", {"k": 1})},
    datasets={"d": DataSpec("y.D", {"root": "r"})},
    shots=[0, 1],
    seeds=[3, 4],
    mask_size=70,
    thumbnails=0,
    trainer={},
)
JOB = Job("a", "d", "bolt", 1, 3)


def row(job: Job = JOB, grid: Grid = GRID, status: str = "ok") -> dict:
    return {**vars(job), "settings": grid.settings(job.model, job.dataset), "status": status}


def test_jobs() -> None:
    jobs = GRID.jobs({"d": ["bolt", "nut"]}, {"a": [0, 1], "b": [1]})
    assert len(jobs) == len(set(jobs)) == 2 * (1 + 2) + 2 * 2
    assert jobs[0] == Job("a", "d", "bolt", 0, 3)  # nothing is random without references: one seed
    assert not [job for job in jobs if job.model == "b" and job.shots == 0]
    assert [job.model for job in jobs] == sorted(job.model for job in jobs)  # so that a worker keeps its CLIP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "`models` is empty"),
        ({"datasets": {}}, "`datasets` is empty"),
        ({"seeds": []}, "`seeds` is empty"),
        ({"shots": []}, r"`shots` must be different numbers from 0 up, got \[\]"),
        ({"shots": [1, 1]}, "`shots` must be different numbers"),
        ({"shots": [-1]}, "`shots` must be different numbers"),
        ({"mask_size": 0}, "`mask_size` must be a number of pixels, got 0"),
    ],
)
def test_impossible_grids(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GRID, **changes)


def test_settings_change_with_what_decides_results() -> None:
    before = GRID.settings("a", "d")
    assert replace(GRID, mask_size=71).settings("a", "d") != before
    assert replace(GRID, models={"a": ModelSpec("x.A", {"k": 2})}).settings("a", "d") != before
    assert replace(GRID, trainer={"precision": 16}).settings("a", "d") != before
    more = {"d": replace(GRID.datasets["d"], categories=["bolt"])}
    assert replace(GRID, shots=[2], seeds=[9], datasets=more).settings("a", "d") == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"init_args": {}}, r"`models.a` has no 'class_path': its keys are"),
        ({"class_path": "x.A", "args": {}}, r"`models.a` has \['args'\]: its keys are"),
        ({"class_path": "x.A", "train": {"max_epochs": 1}}, "`models.a.train` has no 'data'"),
    ],
)
def test_wrong_models(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_models({"a": entry})


def test_wrong_datasets() -> None:
    with pytest.raises(ValueError, match=r"`datasets.d` has \['root'\]"):
        read_datasets({"d": {"class_path": "y.D", "root": "r"}})


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    for shots in (0, 1):
        append_row(path, row(replace(JOB, shots=shots)))
    assert [each["shots"] for each in read_rows(path)] == [0, 1]
    assert finished(read_rows(path), GRID) == {replace(JOB, shots=0), JOB}


def test_failed_runs_are_made_again_and_the_last_row_counts(tmp_path: Path) -> None:
    append_row(tmp_path / "results.jsonl", row(status="failed"))
    assert finished(read_rows(tmp_path / "results.jsonl"), GRID) == set()
    append_row(tmp_path / "results.jsonl", row())
    assert list(read_results(tmp_path).status) == ["ok"]


@pytest.mark.parametrize("lost", [1, 20])
def test_line_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: int) -> None:
    path = tmp_path / "results.jsonl"
    for shots in (0, 1):
        append_row(path, row(replace(JOB, shots=shots)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with caplog.at_level(logging.WARNING):
        assert [each["shots"] for each in read_rows(path)] == [0]
        repair(path)
    assert caplog.text.count("cut off in the middle") == 2
    append_row(path, row(JOB))
    assert path.read_bytes() == whole  # the finished run was not lost


def test_whole_file_is_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    repair(path)
    append_row(path, row())
    before = path.read_bytes()
    repair(path)
    assert path.read_bytes() == before


def test_older_version(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"schema": SCHEMA - 1, **row()}) + "\n")
    with pytest.raises(ValueError, match=f"results.jsonl, line 1 has version {SCHEMA - 1} of the results"):
        read_rows(path)
    assert path.read_text()


@pytest.mark.parametrize("line", ["model,dataset", "[]", "{}"])
def test_something_else_in_the_file(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="is not a result of `aprilgan compare`"):
        read_rows(tmp_path / "results.jsonl")


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `aprilgan compare` with this `output` first"):
        read_results(tmp_path)


def test_empty_results(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(ValueError, match=r"results.jsonl is empty"):
        read_results(tmp_path)


def test_order_of_the_ends_does_not_matter(tmp_path: Path) -> None:
    for number, shots in enumerate((1, 0)):
        append_row(tmp_path / f"{number}" / "results.jsonl", row(replace(JOB, shots=shots)))
        append_row(tmp_path / f"{number}" / "results.jsonl", row(replace(JOB, shots=1 - shots)))
    assert read_results(tmp_path / "0").equals(read_results(tmp_path / "1"))


def test_other_settings() -> None:
    other = replace(GRID, mask_size=71)
    with pytest.raises(ValueError, match="made with other settings"):
        finished([row(grid=other)], GRID)


def test_rows_of_other_models_do_not_matter() -> None:
    assert finished([{**row(), "model": "gone", "settings": "?"}], GRID) == set()
