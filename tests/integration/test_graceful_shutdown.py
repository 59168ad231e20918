# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM in the middle of training, validation, testing and prediction; resuming."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule
from anomalib_aprilgan.components.graceful_shutdown import INTERRUPTED
from conftest import DATASET, GOOD, ROOT, Engines, Models, golden_data

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
Run = Callable[..., Engine]
with_each_signal = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"]
)


@pytest.fixture(scope="module")
def run(make_model: Models, engine: Engines) -> Run:
    """Runs two epochs of five batches and a validation each; or a test or a prediction of one image at a time."""

    def run(action: str, folder: Path, ckpt_path: Path | None = None, **options: object) -> Engine:
        host, target = engine(folder, max_epochs=2, **options), golden_data("fabric", eval_batch_size=1)
        if action == "fit":
            batches = {"mosaic_probability": 0.3, "train_batch_size": 2, "num_workers": 0}
            data = AuxiliaryDataModule(golden_data(), target, ["bolt"], **batches)
            host.fit(make_model(adapters=None), datamodule=data, ckpt_path=ckpt_path)
        elif action == "test":
            host.test(make_model(), datamodule=target)
        else:
            host.predict(make_model(), data_path=GOOD)
        return host

    return run


def signals_at(hook: str, call: int, numbers: Iterable[signal.Signals]) -> Callback:
    """Sends this process the signals at a hook's ``call``."""
    calls = iter(range(1, 1000))

    def send(*_args: object, **_kwargs: object) -> None:
        if next(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)

    return type("Signals", (Callback,), {hook: send})()


def interrupted(run: Run, action: str, folder: Path, hook: str, call: int, *numbers: signal.Signals) -> int:
    """The exit status of an action that gets the signals at a hook's ``call``."""
    with pytest.raises(SystemExit) as end:
        run(action, folder, callbacks=[signals_at(hook, call, numbers)])
    return end.value.code


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Signals as in a fresh process, whatever tests before this one have left, and afterwards as before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def uninterrupted(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Everything that an uninterrupted training makes: adapters, thresholds, ranges."""
    return state(run("fit", tmp_path_factory.mktemp("uninterrupted")))


def state(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.model.state_dict().items() if "encoder" not in name}


@with_each_signal
@pytest.mark.parametrize(
    ("hook", "call"),
    [
        ("on_train_batch_start", 2),
        ("on_before_optimizer_step", 8),
        ("on_train_batch_end", 5),
        ("on_validation_batch_end", 4),
    ],
    ids=["first epoch", "second epoch, in a step", "last batch", "validation"],
)
def test_a_training_resumes_where_it_was_stopped(
    run: Run,
    uninterrupted: dict,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    status: int,
    hook: str,
    call: int,
) -> None:
    assert interrupted(run, "fit", tmp_path, hook, call, number) == status
    assert f"Resume it with `--ckpt_path {tmp_path}" in caplog.text
    (kept,) = tmp_path.rglob(INTERRUPTED)
    resumed = state(run("fit", tmp_path / "resumed", ckpt_path=kept))
    assert resumed.keys() == uninterrupted.keys()
    for name, value in resumed.items():
        torch.testing.assert_close(value, uninterrupted[name], atol=0, rtol=0, equal_nan=True, msg=name)


def test_what_an_interruption_keeps_is_a_model(run: Run, make_model: Models, engine: Engines, tmp_path: Path) -> None:
    interrupted(run, "fit", tmp_path, "on_train_batch_start", 3, signal.SIGINT)
    (kept,) = tmp_path.rglob(INTERRUPTED)
    model = make_model(adapters=str(kept), class_name="bolt")
    assert len(engine().predict(model, data_path=GOOD)) == len(list(GOOD.iterdir()))


def test_a_second_signal_ends_at_once(run: Run, tmp_path: Path) -> None:
    assert interrupted(run, "fit", tmp_path, "on_before_optimizer_step", 2, signal.SIGINT, signal.SIGINT) == 1
    assert not list(tmp_path.rglob(INTERRUPTED))


@with_each_signal
def test_a_test_ends_at_once_and_keeps_its_calibration(
    run: Run, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    assert interrupted(run, "test", tmp_path, "on_test_batch_end", 2, number) == status
    (kept,) = tmp_path.rglob("model.ckpt")
    assert AprilGan.load_from_checkpoint(kept, visualizer=False).post_processor.image_threshold.isfinite()


@with_each_signal
def test_a_prediction_ends_at_once_and_keeps_its_table(
    run: Run, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    assert interrupted(run, "predict", tmp_path, "on_predict_batch_start", 3, number) == status
    (table,) = tmp_path.rglob("predictions.csv")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image_path"]).name for row in rows] == ["000.png", "001.png"]
    assert all(None not in row.values() for row in rows)


@pytest.mark.parametrize("action", ["fit", "test", "predict"])
def test_signals_are_given_back(run: Run, tmp_path: Path, action: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(action, tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_in_a_process_of_its_own(tiny_arguments: dict, tmp_path: Path) -> None:
    """What the shell sees, and the command that resumes."""
    arguments = {**tiny_arguments, "adapters": None, "visualizer": False}
    data = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(DATASET), "num_workers": 0}}
    config = {
        "model": {"class_path": "anomalib_aprilgan.AprilGan", "init_args": arguments},
        "data": {
            "class_path": "anomalib_aprilgan.AuxiliaryDataModule",
            "init_args": {"auxiliary": data, "categories": ["bolt"], "train_batch_size": 2, "num_workers": 0},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 100_000, "enable_progress_bar": False, "logger": False},
        "default_root_dir": str(tmp_path / "results"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-W", "ignore", "-c", "from anomalib.cli.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "fit", "--config", str(tmp_path / "config.yaml")], env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("model*.ckpt")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    (kept,) = tmp_path.rglob(INTERRUPTED)
    assert torch.load(kept, weights_only=True)["global_step"] > 0
