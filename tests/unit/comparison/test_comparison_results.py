# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The grid's configuration and the results file."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from anomalib_aprilgan import cli
from anomalib_aprilgan.comparison import results
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec, read_datasets, read_models
from anomalib_aprilgan.comparison.models import possible_shots
from anomalib_aprilgan.comparison.results import SCHEMA, append_row, finished, read_results, read_rows, repair
from anomalib_aprilgan.comparison.thumbnails import thumbnails_path
from conftest import ROOT
from made_rows import made_row

COMPARISONS = ("ablation", "compare", "vand")
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem.startswith(COMPARISONS))
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def row(job: Job = JOB, grid: Grid = GRID, status: str = "ok") -> dict:
    error = None if status == "ok" else "RuntimeError: no memory"
    return made_row(job, settings=grid.settings(job.model, job.dataset), status=status, error=error)


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
    path = tmp_path / "deep" / "results.jsonl"  # the folder is made
    for shots in (0, 1):
        append_row(path, row(replace(JOB, shots=shots)))
    assert [each["shots"] for each in read_rows(path)] == [0, 1]
    assert finished(read_rows(path), GRID) == {replace(JOB, shots=0), JOB}


def test_failed_runs_are_repeated_and_the_last_row_counts(path: Path) -> None:
    append_row(path, row(status="failed"))
    assert finished(read_rows(path), GRID) == set()
    append_row(path, row())
    assert list(read_results(path.parent).status) == ["ok"]


def test_a_failed_run_does_not_hide_a_finished_one(path: Path) -> None:
    for status, value in (("ok", 1), ("ok", 2), ("failed", None)):
        append_row(path, {**row(status=status), "n_images": value})
    assert finished(read_rows(path), GRID) == {JOB}
    assert read_results(path.parent)[["status", "n_images"]].to_numpy().tolist() == [["ok", 2]]


def test_one_comparison_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LOCK_SECONDS", 0)
    output = tmp_path / "output"
    who = rf"process {os.getpid()} on .* since \d{{4}}-.*\. Wait for its end, or choose another `output`"
    with results.locked(output), pytest.raises(ValueError, match=who), results.locked(output):
        pytest.fail("two comparisons at once")
    with results.locked(output):  # the lock is free again
        assert {path.name for path in output.iterdir()} == {".lock", ".holder"}
    assert [path.name for path in output.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (replace(JOB, model="A + x"), replace(JOB, model="A / x")),
        (replace(JOB, model="April"), replace(JOB, model="april")),
        (replace(JOB, dataset="d 1"), replace(JOB, dataset="d_1")),
        (replace(JOB, category="ä" * 200 + "1"), replace(JOB, category="ä" * 200 + "2")),
        (replace(JOB, model="a__b", dataset="c"), replace(JOB, model="a", dataset="b__c")),
    ],
)
def test_runs_share_no_file_of_pictures(tmp_path: Path, one: Job, other: Job) -> None:
    names = [thumbnails_path(tmp_path, job).name.casefold() for job in (one, other)]
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) < 160


@pytest.mark.parametrize("lost", [1, 20])
def test_incomplete_line(path: Path, caplog: pytest.LogCaptureFixture, lost: int) -> None:
    for shots in (0, 1):
        append_row(path, row(replace(JOB, shots=shots)))
    complete = path.read_bytes()
    path.write_bytes(complete[:-lost])
    with caplog.at_level(logging.WARNING):
        assert [each["shots"] for each in read_rows(path)] == [0]
        repair(path)
    assert caplog.text.count("cut off in the middle") == 2
    append_row(path, row(JOB))
    assert path.read_bytes() == complete  # the finished run was not lost


def test_complete_file_is_not_repaired(path: Path) -> None:
    repair(path)
    append_row(path, row())
    before = path.read_bytes()
    repair(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "run `aprilgan compare` with this `output` first"),
        ("", ValueError, "results.jsonl is empty"),
        ("model,dataset\n", ValueError, "is not a result of `aprilgan compare`"),
        ("[]\n", ValueError, "is not a result of `aprilgan compare`"),
        ("{}\n", ValueError, "is not a result of `aprilgan compare`"),
        (b"\xff\xfe\n", ValueError, "line 1 is not a result of `aprilgan compare`"),
        (f'{{"schema": {SCHEMA}}}\n', ValueError, "line 1 lacks 'model'. Restore the file, or remove this line"),
        (f'{{"schema": {SCHEMA - 1}}}\n', ValueError, f"results.jsonl, line 1 has version {SCHEMA - 1} of the results"),
    ],
)
def test_unreadable_results(path: Path, content: str | bytes | None, error: type[Exception], message: str) -> None:
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_results(path.parent)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("status", ["ok", "failed"])
@pytest.mark.parametrize("name", ["model", "shots", "status", "settings", "data_class"])
def test_rows_that_lack_a_key_are_named(path: Path, status: str, name: str) -> None:
    append_row(path, row())
    cut = row(status=status)
    del cut[name]
    append_row(path, cut)
    with pytest.raises(ValueError, match=f"results.jsonl, line 2 lacks '{name}'. .*its run will be repeated"):
        read_results(path.parent)


@pytest.mark.parametrize("name", ["image_AUROC", "pixel_PRO", "mask_size", "device", "seconds_per_image"])
@pytest.mark.parametrize("value", [None, "text"])
def test_finished_rows_without_numbers_are_named(path: Path, name: str, value: str | None) -> None:
    changed = {key: each for key, each in row().items() if key != name} | ({name: [value]} if value else {})
    append_row(path, changed)
    problem = f"has \\['text'\\] as '{name}'" if value else f"lacks '{name}'"
    with pytest.raises(ValueError, match=f"results.jsonl, line 1 {problem}"):
        read_rows(path)


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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations(path: Path) -> None:
    parser = ArgumentParser()
    parser.add_function_arguments(cli.compare)
    parser.add_argument("--config", action="config")
    values = parser.instantiate_classes(parser.parse_args(["--config", str(path)]))
    settings = (values.shots, values.seeds, values.mask_size, values.pictures, values.trainer or {})
    grid = Grid(read_models(values.models), read_datasets(values.datasets), *settings)
    possible = {name: possible_shots(spec, grid.shots, name) for name, spec in grid.models.items()}
    jobs = grid.jobs({name: spec.categories or ["bottle"] for name, spec in grid.datasets.items()}, possible)
    assert {job.model for job in jobs} == set(grid.models)
    json.dumps(grid.settings(jobs[0].model, jobs[0].dataset))
