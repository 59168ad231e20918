# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""``aprilgan parts`` from a checkpoint of the embedded CLIP on disk, also in a process that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.cli import main
from conftest import BOLT, ROOT, Engines

DEMO = {"backbone": "demo", "pretrained": "demo", "image_size": 224, "adapters": "demo", "class_name": "bolt"}
NUT = [BOLT / "train/good/002.png", BOLT / "train/good/003.png"]
KILLED = """
import os, signal, torch
from anomalib_aprilgan.cli import main
torch.save = lambda content, file: (file.write(b'half'), file.flush(), os.kill(os.getpid(), signal.SIGKILL))
main()
"""
Parts = Callable[..., str]


@pytest.fixture(scope="module")
def original(engine: Engines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the embedded CLIP, zero-shot."""
    folder = tmp_path_factory.mktemp("demo_parts")
    made = engine(folder)
    made.predict(AprilGan(**DEMO), data_path=NUT[0])
    made.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "model.ckpt"))


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Parts:
    """Runs the command and returns what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["aprilgan", "parts", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_parts_are_added_predicted_exported_and_dropped(checkpoint: Path, parts: Parts, tmp_path: Path) -> None:
    added = parts("add", checkpoint, "nut", "--references", *NUT, "--class_name", "hexagon nut")
    assert "Part 'nut', class name 'hexagon nut'\n2 references: 002.png, 003.png in" in added
    parts("add", checkpoint, "washer")
    for part in ("nut", "washer"):
        shutil.copytree(BOLT / "test" / "scratch", tmp_path / "today" / part)
    printed = parts("predict", checkpoint, tmp_path / "today", "--output", tmp_path / "results")
    table = pd.read_csv(printed.split("Predictions of all parts: ")[1].strip())
    assert sorted(set(table.part)) == ["nut", "washer"]
    assert table[table.part == "nut"].threshold.eq(0.5).all()
    assert table[table.part == "washer"].threshold.isna().all()
    exported = parts("export", checkpoint, "--export_root", tmp_path / "exports").splitlines()
    assert all(Path(line).is_file() for line in exported)
    assert len(exported) == 2
    assert parts("drop", checkpoint, "nut") == "Dropped: nut\n"
    assert parts("list", checkpoint).splitlines()[1:] == ["washer     washer           0 not recorded"]


@pytest.mark.slow
def test_a_killed_change_leaves_the_old_checkpoint(checkpoint: Path, original: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLED, "parts", "add", str(checkpoint), "nut"]
    killed = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "none.ckpt"], "There is no checkpoint 'none.ckpt'"),
        (["drop", "README.md", "nut"], "README.md can't be read"),
        (["add", "none.ckpt", "a/b"], "named like a folder"),
        (["predict", "none.ckpt", "today"], "There is no checkpoint"),
    ],
)
def test_wrong_input(parts: Parts, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=message):
        parts(*arguments)
