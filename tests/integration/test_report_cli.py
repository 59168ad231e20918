# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""``aprilgan check`` and ``aprilgan report`` in fresh processes on the embedded model, and the page in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anomalib_aprilgan.comparison.report import labelled
from conftest import ROOT
from test_app import browser  # noqa: F401  # a fixture

MODEL = {"backbone": "demo", "pretrained": "demo", "adapters": "demo", "image_size": 224, "class_name": "coin"}


def run(folder: Path, program: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and log of a command in a fresh process."""
    module = {"aprilgan": "anomalib_aprilgan.cli", "anomalib": "anomalib.cli.cli"}[program]
    command = [sys.executable, "-W", "ignore", "-c", f"from {module} import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def arguments(**more: object) -> list[str]:
    return [f"--model.{name}={value}" for name, value in {**MODEL, **more}.items()]


@pytest.fixture(scope="module")
def images(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in each of good/ and bad/, and beside the good ones a hidden and a broken one."""
    folder = tmp_path_factory.mktemp("parts")
    test = demo_root / "coins" / "test"
    for name, files in (("good", sorted((test / "good").iterdir())), ("bad", sorted(test.glob("[sh]*/*.png")))):
        (folder / name).mkdir()
        for number, path in enumerate(files[:10]):
            shutil.copyfile(path, folder / name / f"{number}.png")
    shutil.copyfile(folder / "bad" / "0.png", folder / "good" / ".0.png")
    (folder / "good" / "broken.png").write_text("no image")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 4])
def test_a_suggested_threshold_is_kept_and_reported(images: Path, demo_root: Path, tmp_path: Path, shots: int) -> None:
    few = {"k_shot": 4, "few_shot_source": demo_root / "coins" / "train"} if shots else {}
    folders = ["--good", images / "good", "--bad", images / "bad"]
    save = ["--escape_rate=0.2", "--save=kept.ckpt"]
    code, output, log = run(tmp_path, "aprilgan", "check", *folders, *arguments(**few), *save)
    assert code == 0, log
    assert "20 images: 10 good, 10 bad" in output
    assert (". Now, from 4 references" if shots else "No threshold is known").strip(". ") in output
    assert "broken.png" in log
    assert "1 hidden files, such as .0.png" in log
    suggested = re.search(r"At most 20 % escapes: raw score ([\d.]+); false alarms (\d+) .*escapes (\d+) of 10", output)
    threshold, alarms, escapes = float(suggested[1]), int(suggested[2]), int(suggested[3])
    assert escapes == 2
    assert "To show a rate of 20 % takes 15 bad images without one (rule of three), there are 10." in output

    again = ["--data", images, "--ckpt_path", "kept.ckpt", "--trainer.accelerator=cpu", "--model.visualizer=false"]
    few = {"k_shot": shots} if shots else {}
    code, output, log = run(tmp_path, "anomalib", "predict", "--model=AprilGan", *arguments(**few), *again)
    assert code == 0, output + log
    table = tmp_path / "results" / "AprilGan" / "latest" / "predictions.csv"
    rows = pd.read_csv(table)
    assert rows.raw_threshold.to_numpy() == pytest.approx(threshold, rel=1e-5)
    assert set(rows.threshold_origin) == {"10 good and 10 bad images"}
    good = rows.image_path.str.contains("/good/")
    assert (rows.pred_label[good].sum(), (~rows.pred_label[~good]).sum()) == (alarms, escapes)

    code, output, log = run(tmp_path, "aprilgan", "report", table, "--before=kept.ckpt", "--resamples=50")
    assert code == 0, log
    assert "20 images: 10 good, 10 bad (by names of folders)" in output
    assert "No drift is seen: the scores of today's good images differ from those of the normal images of" in output
    assert f"{escapes} of 10" in (table.parent / "report.html").read_text(encoding="utf-8")
    assert (table.parent / "report.pdf").read_bytes().startswith(b"%PDF")


def test_an_image_in_both_folders_is_named(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "bad", tmp_path / "bad")
    shutil.copyfile(images / "good" / "3.png", tmp_path / "bad" / "copy.png")
    with pytest.raises(ValueError, match=r"1 images are in both folders, such as .*good/3\.png is .*bad/copy\.png"):
        labelled.find_images([images / "good", tmp_path / "bad"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["check", "--good=nowhere", "--bad=."], "Path does not exist: 'nowhere'"),
        (["check", "--good=.", "--bad=.", "--model.colour=red"], "`model` has no argument colour: it has backbone"),
        (["check", "--good=.", "--bad=.", "--escape_rate=1"], r"`escape_rate` must be in \[0, 1\), got 1"),
        (["check", "--good=.", "--bad=.", "--escape_rate=0", "--false_alarm_rate=0", "--save=x"], "one threshold"),
        (["check", "--good=.", "--bad=.", "--save=."], "`save` is the path of a file"),
        (["check", "--good=.", "--bad=.", "--checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["report", "nowhere"], "no table of predictions nowhere"),
        (["report", "."], "no table of predictions predictions.csv"),
        (["report", "a.csv", "--resamples=0"], "`resamples` must be a whole number from 1, got 0"),
    ],
)
def test_wrong_input(command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib_aprilgan import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aprilgan", *command, *(arguments() if command[-1] == "--bad=." else [])])
    with pytest.raises(SystemExit, match=message):
        cli.main()


@pytest.mark.slow
def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:  # noqa: F811  # the fixture
    rows = [f"{'good' if index < 20 else 'bad'}/{index}.png,{index / 30},0.5" for index in range(30)]
    (tmp_path / "predictions.csv").write_text("\n".join(["image_path,raw_score,raw_threshold", *rows]))
    assert run(tmp_path, "aprilgan", "report", ".", "--resamples=50")[0] == 0
    browser.get((tmp_path / "report.html").as_uri())
    widths = browser.execute_script("return Array.from(document.images).map(image => image.naturalWidth)")
    browser.save_screenshot(str(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "report.png"))
    assert len(widths) == 1 + 10 + 10
    assert min(widths) > 0
    assert "5 of 20" in browser.find_element("tag name", "body").text
    assert browser.execute_script("return performance.getEntriesByType('resource').length") in {0, len(widths)}
    assert browser.get_log("browser") == []
