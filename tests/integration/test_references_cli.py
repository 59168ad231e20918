# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""``aprilgan references`` from a checkpoint on disk, in a fresh process, also one that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.cli import main
from conftest import BOLT, GOOD, ROOT, Engines

DEMO = {"backbone": "demo", "pretrained": "demo", "image_size": 224, "adapters": "demo", "class_name": "bolt"}
# What the command runs, and a place at which it is killed.
RUN = "from anomalib_aprilgan.cli import main\nmain()\n"
KILL = "lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
HALF = f"lambda content, file: (file.write(b'half'), file.flush(), ({KILL})())"
PLACES = {
    "before thresholds are set": f"post_processor.AprilGanPostProcessor.calibrate_on_normal = {KILL}",
    "in the middle of writing": f"torch.save = {HALF}",
    "before the new file takes the name": f"os.replace = {KILL}",
}
IMPORTS = "import os, signal, torch\nfrom anomalib_aprilgan.components import post_processor\n"


def references(*arguments: object, script: str = RUN) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", script, "references", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


@pytest.fixture(scope="module")
def checkpoint(engine: Engines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the embedded CLIP with two references."""
    folder = tmp_path_factory.mktemp("demo_references")
    model = AprilGan(**DEMO, k_shot=2, few_shot_source=[str(BOLT / f"train/good/00{n}.png") for n in range(2)])
    made = engine(folder)
    made.predict(model, data_path=GOOD / "000.png")
    made.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_change_leaves_the_old_checkpoint(checkpoint: Path, tmp_path: Path, place: str) -> None:
    path = tmp_path / "model.ckpt"
    shutil.copy(checkpoint, path)
    killed = references("add", path, BOLT / "train/good", script=f"{IMPORTS}{PLACES[place]}\n{RUN}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.read_bytes() == checkpoint.read_bytes()


@pytest.mark.slow
def test_a_fresh_process_adds_and_another_predicts(checkpoint: Path, engine: Engines, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    shutil.copy(checkpoint, path)
    added = references("add", path, BOLT / "train/good/002.png", BOLT / "train/good")
    assert added.returncode == 0, added.stderr
    assert "4 references: 000.png, 001.png, 002.png, 003.png in" in added.stdout
    assert "Thresholds now: image score " in added.stdout
    files = [str(BOLT / f"train/good/00{number}.png") for number in range(4)]
    new, stale = (
        AprilGan(**DEMO, k_shot=4, few_shot_source=files),
        AprilGan(**DEMO, k_shot=2, few_shot_source=files[:2]),
    )
    (expected,) = engine(tmp_path / "new").predict(new, data_path=BOLT / "test/scratch/000.png")
    (found,) = engine(tmp_path / "old").predict(stale, data_path=BOLT / "test/scratch/000.png", ckpt_path=path)
    torch.testing.assert_close(found.pred_score, expected.pred_score, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-6)
    for threshold in ("image_threshold", "pixel_threshold"):
        torch.testing.assert_close(
            getattr(stale.post_processor, threshold), getattr(new.post_processor, threshold), rtol=0, atol=1e-6
        )


def test_commands(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One after the other, in this process."""
    path = tmp_path / "model.ckpt"
    shutil.copy(checkpoint, path)
    shutil.copytree(BOLT / "train/good", tmp_path / "good")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["aprilgan", "references", *arguments])
        main()
        return capsys.readouterr().out

    assert run("list", "model.ckpt").count("train/good") == 2
    assert "3 references: 000.png, 001.png" in run("add", "model.ckpt", "good/003.png")
    assert "Dropped: " in run("drop", "model.ckpt", "1", "001.png")
    assert run("list", "model.ckpt").count(f"{tmp_path}/good ") == 1
    assert "2 references: 001.png, 002.png" in run("replace", "model.ckpt", "good/001.png", "good/002.png")
    with pytest.raises(SystemExit, match=r"'7' is none of the references. There are: 1 .*001.png; 2 .*002.png"):
        run("drop", "model.ckpt", "7")
    model = ["--backbone", "demo", "--pretrained", "demo", "--image_size", "224"]
    lines = run("suggest", "good", "-k", "2", *model, "--output", "sheet.png").splitlines()
    assert all(Path(line).parent == tmp_path / "good" for line in lines[:2])
    assert lines[2].startswith("Largest distance of an image to the nearest of so many chosen ones: 1: 0.0")
    assert lines[-1] == "Pictures: sheet.png"
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "command", [["references", "suggest", "none", "-k", "2"], ["check", "--good", "none", "--bad", "x"]]
)
def test_missing_folders_are_named_before_weights_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalib_aprilgan.AprilGan.__init__", lambda *_, **__: pytest.fail("a model was made"))
    monkeypatch.setattr(sys, "argv", ["aprilgan", *command])
    with pytest.raises(SystemExit, match="Path does not exist: 'none'"):
        main()
