# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The command line ``aprilgan``: whole comparisons on the goldens' data set, interrupted and resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from anomalib_aprilgan import cli
from anomalib_aprilgan.comparison import execution
from anomalib_aprilgan.comparison.results import FILE, read_results, read_rows
from conftest import DATASET, ROOT

Run = Callable[..., int]
NOWHERE = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": "nowhere"}}
CLUSTERS = pytest.mark.parametrize(("backend", "module"), [("ray", "ray.util.joblib"), ("dask", "distributed")])
PATIENCE = 900  # seconds: other work on the machine may take most of its cores
SIGNALS = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")


@pytest.fixture
def config(tiny_arguments: dict, tmp_path: Path) -> dict:
    """The goldens' AprilGan and a small SPADE on both categories."""
    return {
        "models": {
            "AprilGan": {"class_path": "anomalib_aprilgan.AprilGan", "init_args": tiny_arguments},
            "SPADE": {
                "class_path": "anomalib_aprilgan.comparison.spade.Spade",
                "init_args": {"backbone": "resnet10t", "pre_trained": False, "image_size": 64},
            },
        },
        "datasets": {
            "goldens": {
                "class_path": "anomalib.data.MVTecAD",
                "init_args": {"root": str(DATASET), "eval_batch_size": 4, "num_workers": 0},
            }
        },
        "output": str(tmp_path / "output"),
        "shots": [0, 1, 2],
        "seeds": [0, 1],
        "mask_size": 70,
        "pictures": 2,
        "trainer": {"accelerator": "cpu"},
    }


@pytest.fixture
def aprilgan(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``aprilgan`` with arguments and returns the exit code."""

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["aprilgan", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
        return 0

    return main


@pytest.fixture
def run(aprilgan: Run, tmp_path: Path) -> Run:
    """Runs ``aprilgan compare`` with a configuration and returns the exit code."""
    return lambda config, *arguments: aprilgan("compare", "--config", write(config, tmp_path), *arguments)


@pytest.fixture
def worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets worker processes import this checkout, and ignore warnings, which are errors in tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


def write(config: dict, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def numbers(output: Path) -> pd.DataFrame:
    """The results without what differs between runs: times, memory, and what shared a pass."""
    measured = ["seconds_per_image", "peak_memory_mib", "finished", "sweep_seconds", "sweep_runs"]
    return read_results(output).drop(columns=measured)


def tables(output: Path) -> list[str]:
    return [line for line in (output / "tables.csv").read_text().splitlines() if not line.startswith("Cost,")]


@pytest.mark.slow
def test_compare(
    run: Run, aprilgan: Run, config: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(config) == 0
    output = Path(config["output"])
    results = read_results(output)
    assert len(results) == 2 * (1 + 2 * 2) + 2 * (2 * 2)
    assert set(results.status) == {"ok"}
    files = {".lock", FILE, "figures", "pictures", "scores", "tables.csv", "tables.md", "tables.tex"}
    assert {path.name for path in output.iterdir()} == files
    names = {"maps_goldens_bolt", "maps_goldens_fabric", "shots_goldens"}
    figures = {f"{name}.{end}" for name in names for end in ("png", "pdf")}
    assert {path.name for path in (output / "figures").iterdir()} == figures
    printed = capsys.readouterr()
    assert "goldens: mean over 2 categories" in printed.out
    assert "18/18 runs" in printed.err

    # once more: nothing is left to do
    monkeypatch.setattr(execution, "run_portion", lambda *_: pytest.fail("a finished run was repeated"))
    before = (output / FILE).read_bytes()
    assert run(config) == 0
    assert (output / FILE).read_bytes() == before

    for kind, expected in (("vand", "### VAND 2023, few-shot track"), ("cost", "### Cost"), ("categories", "bolt")):
        capsys.readouterr()
        assert aprilgan("table", "--output", str(output), "--kind", kind, "--format", "md") == 0
        assert expected in capsys.readouterr().out
    chosen = ["--models", '["AprilGan"]', "--shots", "[0, 2]", "--metrics", '["pixel_PRO_authors"]']
    assert aprilgan("figure", "--output", str(output), *chosen) == 0
    assert "6 files" in capsys.readouterr().out


def interrupt(config: dict, folder: Path, number: signal.Signals) -> int:
    """Sends the signal to another process that runs the comparison, after three results; returns its exit status."""
    results = Path(config["output"]) / FILE
    script = "from anomalib_aprilgan.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", script, "compare", "--config", write(config, folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not results.exists() or results.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(PATIENCE)


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_terminated(config: dict, tmp_path: Path, number: signal.Signals) -> None:
    statuses = {signal.SIGTERM: {128 + signal.SIGTERM}, signal.SIGINT: {1, -signal.SIGINT}}  # Lightning's, Python's
    assert interrupt(config, tmp_path, number) in statuses[number]
    assert set(read_results(Path(config["output"])).status) == {"ok"}


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("limit", [None, 6e-4], ids=["one pass", "several passes"])
def test_killed_and_resumed(run: Run, config: dict, tmp_path: Path, limit: float | None) -> None:
    output = Path(config["output"])
    interrupt({**config, "memory_limit": limit}, tmp_path, signal.SIGKILL)
    survived = (output / FILE).read_bytes()
    survived = survived[: survived.rfind(b"\n") + 1]
    assert 3 <= survived.count(b"\n") < 18
    with (output / FILE).open("ab") as file:
        file.write(b'{"schema": 1, "model": "Apr')  # had it been killed while writing

    assert run(config) == 0
    assert (output / FILE).read_bytes().startswith(survived)
    rows = read_rows(output / FILE)
    assert len(rows) == 18  # no run was repeated
    made = [row for row in rows[survived.count(b"\n") :] if row["model"] == "AprilGan"]
    for category in ("bolt", "fabric"):  # what was missing shared a pass
        part = [row["sweep_runs"] for row in made if row["category"] == category]
        assert part == [len(part)] * len(part)

    assert run({**config, "output": str(tmp_path / "uninterrupted")}) == 0
    pd.testing.assert_frame_equal(numbers(output), numbers(tmp_path / "uninterrupted"))
    assert tables(output) == tables(tmp_path / "uninterrupted")


@pytest.mark.slow
@pytest.mark.usefixtures("worker_processes")
def test_workers_give_the_same_numbers(run: Run, config: dict, tmp_path: Path) -> None:
    config = {**config, "shots": [0, 1], "seeds": [0]}
    assert run(config) == 0
    parallel = {**config, "output": str(tmp_path / "parallel")}
    assert run(parallel, "--n_jobs", "2") == 0
    one, two = (numbers(Path(each["output"])).drop(columns="device") for each in (config, parallel))
    pd.testing.assert_frame_equal(one, two, atol=1e-6)
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.slow
def test_failed_run_is_recorded_and_the_others_continue(run: Run, config: dict, capsys: pytest.CaptureFixture) -> None:
    config["models"]["Broken"] = {"class_path": "anomalib.models.Padim", "init_args": {"backbones": "x"}}
    config.update(shots=[1, 9], seeds=[0])
    assert run(config) == 1
    results = read_results(Path(config["output"])).set_index(["model", "category", "shots"]).sort_index()
    assert set(results.loc["Broken"].status) == {"failed"}
    assert results.loc[("SPADE", "bolt", 1)].status == "ok"
    assert "larger than the number of normal reference images, 4" in results.loc[("SPADE", "bolt", 9)].error
    error = capsys.readouterr().err
    assert "8 runs failed; the next start tries them again" in error
    assert "Failed: Broken" in error
    assert "Failed: SPADE on goldens/bolt, 9-shot, seed 0" in (Path(config["output"]) / "tables.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"x": {"class_path": "anomalib.models.Nothing"}}}, "unknown class_path 'anomalib.models.Nothing'"),
        ({"models": {"x": {"init_args": {}}}}, "`models.x` has no 'class_path'"),
        ({"shots": []}, "`shots` must be different numbers"),
        ({"memory_limit": 0}, "`memory_limit` must be a number of GiB above 0, got 0"),
        ({"datasets": {"d": NOWHERE}}, "The `root` 'nowhere' of the data set 'd' does not exist"),
    ],
)
def test_wrong_configuration(run: Run, config: dict, change: dict, message: str) -> None:
    assert message in run({**config, **change})
    assert not Path(config["output"]).exists()


def test_training_of_what_has_adapters(run: Run, config: dict) -> None:
    config["models"]["AprilGan"]["train"] = {"data": {"class_path": "anomalib_aprilgan.AuxiliaryDataModule"}}
    assert "`models.AprilGan.train` makes the adapters of an AprilGan whose `adapters` are not set" in run(config)


def test_results_of_an_older_version_are_left_alone(run: Run, config: dict) -> None:
    path = Path(config["output"]) / FILE
    path.parent.mkdir()
    path.write_text('{"schema": 0, "model": "AprilGan"}\n')
    assert "has version 0 of the results" in run(config)
    assert path.read_text() == '{"schema": 0, "model": "AprilGan"}\n'


@pytest.mark.parametrize("command", ["table", "figure"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There are no results in .*results.jsonl: run `aprilgan compare` with this `output` first"),
        ("", "results.jsonl is empty"),
        ('{"image": "000.png", "score": 0.5}\n', "results.jsonl, line 1 is not a result of `aprilgan compare`"),
        ('{"schema": 1, "model": "A"}\n', "results.jsonl, line 1 lacks 'model_class'"),
    ],
)
def test_folders_without_results(
    aprilgan: Run, tmp_path: Path, command: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert re.match(f"aprilgan: error: .*{message}", aprilgan(command, "--output", str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} <= {FILE}


@CLUSTERS
def test_backend_not_installed(
    monkeypatch: pytest.MonkeyPatch, run: Run, config: dict, backend: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'anomalib-aprilgan[{backend}]'" in run(config, "--backend", backend)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="`backend` must be one of"):
        execution.run_grid(None, Path(), backend="spark")


@pytest.mark.slow
@CLUSTERS
@pytest.mark.usefixtures("worker_processes")
def test_cluster(run: Run, config: dict, backend: str, module: str) -> None:
    pytest.importorskip(module)
    assert run({**config, "shots": [1], "seeds": [0]}, "--backend", backend, "--n_jobs", "2") == 0
    assert len(read_results(Path(config["output"]))) == 4
