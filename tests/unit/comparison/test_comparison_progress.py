# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Progress as lines in a file, and as bars on a terminal."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.comparison import progress
from anomalib_aprilgan.comparison.progress import PredictionProgress, TrainingProgress, showing_progress, stage
from anomalib_aprilgan.comparison.runs import silence
from conftest import Engines, Models, golden_data


def lines(text: str) -> list[str]:
    """The lines, whose times are checked and cut off."""
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in text.splitlines())
    return [line[9:] for line in text.splitlines()]


def work() -> None:
    """Two runs with a stage before the first and one in each."""
    with showing_progress() as shown:
        for done in range(4):
            stage("reading", done, 3, "files")
        shown.begin(2, 5)
        for job in ("one", "two"):
            for done in range(1, 4):
                stage("test images", done, 3, "batches")
            shown.ended(job)
    stage("nobody looks", 0, 1, "files")


def test_lines_in_a_file(capsys: pytest.CaptureFixture) -> None:
    work()
    begin = ["0/3 files: reading", "3/3 files: reading", "0/2 runs, 5 done before"]
    assert lines(capsys.readouterr().err) == [*begin, "1/2 runs: one", "2/2 runs: two"]


def test_what_takes_long_has_lines_of_its_own(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", -1)
    work()
    printed = lines(capsys.readouterr().err)
    assert printed.count("2/3 batches: test images") == 2
    assert printed.index("3/3 batches: test images") < printed.index("1/2 runs: one")


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with showing_progress() as shown:
        stage("reading", 1, 3, "files")
        shown.begin(2, 5)
        shown.refresh()
    drawn = stream.getvalue()
    assert "1/3 files" in drawn
    assert "0/2 runs" in drawn
    assert "reading" in drawn
    assert not re.search(r"\d\d:\d\d:\d\d 1/3", drawn)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is reported from now on."""
    seen: list[tuple] = []
    monkeypatch.setattr(progress, "stage", lambda *given: seen.append(given))
    return seen


def test_batches_of_a_prediction(engine: Engines, make_model: Models, reported: list) -> None:
    data = golden_data(eval_batch_size=4)
    engine(callbacks=[PredictionProgress()]).predict(make_model(), datamodule=data, return_predictions=False)
    assert reported == [("test images", done, 3, "batches") for done in (1, 2, 3)]


def test_batches_of_a_training(engine: Engines, make_model: Models, reported: list) -> None:
    data = AuxiliaryDataModule(golden_data(), categories=["fabric"], train_batch_size=5, num_workers=0)
    trainer = engine(callbacks=[TrainingProgress("adapters")], max_epochs=2, limit_val_batches=0)
    trainer.fit(make_model(adapters=None), datamodule=data)
    assert reported == [("training adapters, 2 epochs", done, 4, "batches") for done in range(5)]


def test_logs_are_as_silent_after_a_run_as_before(caplog: pytest.LogCaptureFixture) -> None:
    logging.disable(logging.ERROR)
    try:
        with silence():
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)
    with silence():
        logging.getLogger("any").warning("not said")
    logging.getLogger("any").warning("said")
    assert caplog.messages == ["said"]
