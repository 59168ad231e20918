# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A comparison with `pool` among its shots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from anomalib_aprilgan.comparison import figures, runs, tables
from anomalib_aprilgan.comparison.execution import _tasks
from anomalib_aprilgan.comparison.grid import POOL, DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.models import possible_shots
from anomalib_aprilgan.comparison.results import FILE, append_row, finished, read_results, read_rows
from anomalib_aprilgan.comparison.sweep import run_portion
from conftest import BOLT, DATASET, Engines, Models
from made_rows import made_row

DATA = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])


def grid_of(arguments: dict, shots: list, **models: ModelSpec) -> Grid:
    models = {"AprilGan": ModelSpec("anomalib_aprilgan.AprilGan", arguments), **models}
    return Grid(models, {"goldens": DATA}, shots, [0, 1], mask_size=70, thumbnails=0, trainer={"accelerator": "cpu"})


@pytest.mark.parametrize(
    ("kind", "own", "expected"),
    [
        ("anomalib_aprilgan.AprilGan", None, [POOL, 0, 4]),
        ("anomalib_aprilgan.AprilGan", [0, "pool"], [POOL, 0]),
        ("anomalib_aprilgan.AprilGan", [4], [4]),
        ("anomalib.models.WinClip", None, [0, 4]),
        ("anomalib.models.Patchcore", None, [4]),
    ],
)
def test_which_models_have_one(kind: str, own: list | None, expected: list[int]) -> None:
    assert possible_shots(ModelSpec(kind, shots=own), [0, "pool", 4], "model") == expected


def test_it_runs_with_one_seed_and_shares_no_pass(tiny_arguments: dict) -> None:
    grid = grid_of(tiny_arguments, [0, "pool", 1])
    jobs = grid.jobs({"goldens": ["bolt"]}, {"AprilGan": [POOL, 0, 1]})
    assert str(jobs[0]) == "AprilGan, goldens/bolt, pool, seed 0"
    assert [[(job.shots, job.seed) for job in task] for task in _tasks(grid, jobs)] == [
        [(POOL, 0)],
        [(0, 0), (1, 0), (1, 1)],
    ]


@pytest.mark.parametrize(
    ("arguments", "shots"),
    [({}, POOL), ({"pool": True}, 0), ({"adapters": None}, POOL)],
    ids=["among the shots", "among the arguments", "in place of adapters"],
)
def test_scores_are_those_of_a_prediction_with_a_pool(
    make_model: Models,
    engine: Engines,
    tiny_arguments: dict,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict,
    shots: int,
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(runs, "measure", lambda scores, *_: seen.extend(scores) or {})
    job = Job("AprilGan", "goldens", "bolt", shots, 0)
    outcomes, rest, _ = run_portion(grid_of({**tiny_arguments, **arguments}, [0]), [job])
    ((_, row, _),) = outcomes
    assert (row["error"], row["shots"], row["references"], rest) == (None, shots, [], [])
    model = make_model(**{"post_processor": False, "class_name": "bolt", **arguments, "pool": True})
    batches = engine().predict(model, data_path=BOLT / "test")
    expected = [float(score) for batch in batches for score in batch.pred_score]
    np.testing.assert_allclose(sorted(seen), sorted(expected), atol=1e-4)


def test_results_tables_and_figures(tiny_arguments: dict, tmp_path) -> None:
    core = ModelSpec("anomalib.models.Patchcore")
    grid = grid_of(tiny_arguments, ["pool", 1], PatchCore=core)
    for model, shots, value in (("AprilGan", POOL, 0.9), ("AprilGan", 1, 0.8), ("PatchCore", 1, 0.7)):
        job = Job(model, "goldens", "bolt", shots, 0)
        append_row(tmp_path / FILE, made_row(job, value, settings=grid.settings(model, "goldens")))
    assert Job("AprilGan", "goldens", "bolt", POOL, 0) in finished(read_rows(tmp_path / FILE), grid)
    results: pd.DataFrame = read_results(tmp_path)
    table, cost, *_ = tables.all_tables(results)
    assert [(row[0].mean, row[1].mean) for row in table.rows] == [
        ("pool", "AprilGan"),
        ("1", "AprilGan"),
        ("1", "PatchCore"),
    ]
    assert "Not at pool: PatchCore." in table.notes
    assert [row[1].mean for row in cost.rows] == ["pool", "1", "1"]
    (figure,) = figures.shots_figures(results, ["image_AUROC"], ["AprilGan"], ["pool", 1]).values()
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["pool", "1"]
    (bars,) = axis.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[POOL, 90], [POOL + 0.5, np.nan], [1, 80]])
