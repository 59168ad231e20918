# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Inspecting one's own parts: anomalib's predict, and its Folder without masks or without defects."""

from __future__ import annotations

import builtins
import csv
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import main
from anomalib.data import Folder
from PIL import Image

from bad_files import gray_levels, save_turned, write_bad
from conftest import BOLT, GOOD, Engines, Models

NORMAL = {"normal_dir": "train/good", "normal_test_dir": "test/good"}
Anomalib = Callable[..., Path]


@pytest.fixture
def anomalib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_arguments: dict) -> Anomalib:
    """Runs ``anomalib COMMAND --model AprilGan`` with the goldens' model; returns the folder of its results."""

    def run(command: str, *arguments: object) -> Path:
        monkeypatch.chdir(tmp_path)
        model = [f"--model.{name}={value}" for name, value in tiny_arguments.items()]
        quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
        monkeypatch.setattr(
            sys, "argv", ["anomalib", command, "--model", "AprilGan", *model, *map(str, arguments), *quiet]
        )
        main()
        return max((tmp_path / "results" / "AprilGan").rglob("images"), key=lambda path: path.stat().st_mtime).parent

    return run


def rows(results: Path) -> list[dict[str, str]]:
    """The table of predictions."""
    with (results / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("references", [[], ["--model.k_shot=2", f"--model.few_shot_source={BOLT / 'train' / 'good'}"]])
def test_predict_an_image(anomalib: Anomalib, references: list[str]) -> None:
    image = BOLT / "test" / "scratch" / "000.png"
    results = anomalib("predict", "--model.class_name=metal bracket", *references, "--data", image)
    (row,) = rows(results)
    assert row["image_path"] == str(image)
    if references:
        assert float(row["threshold"]) == 0.5
        assert (float(row["pred_score"]) >= 0.5) is (row["pred_label"] == "True")
    else:
        assert (row["threshold_origin"], row["threshold"], row["pred_label"]) == ("no threshold", "", "")
    assert [path.relative_to(results / "images") for path in results.rglob("*.png")] == [Path("scratch/000.png")]


def test_predict_nested_folders_with_other_files_and_bad_images(
    anomalib: Anomalib, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures of images with the same name are kept apart; what is no image is named and does not stop the rest."""
    parts = tmp_path / "parts"
    for side in ("a/left", "b/left"):
        shutil.copytree(GOOD, parts / side)
    (parts / "notes.txt").write_text("no image")
    (parts / "a" / "list.csv").write_text("000.png,ok")
    bad = write_bad(parts / "b")
    results = anomalib("predict", "--model.class_name=bolt", "--data", parts)
    written = {str(path.relative_to(results / "images")) for path in results.rglob("*.png")}
    names = [path.name for path in sorted((GOOD).iterdir())]
    assert written == {f"parts/{side}/left/{name}" for side in "ab" for name in names}
    assert len(rows(results)) == 2 * len(names)
    assert all(str(path) in caplog.text for path in bad.values())


@pytest.mark.parametrize("normalized", [True, False])
def test_every_file_is_opened_at_most_twice(
    make_model: Models, engine: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalized: bool
) -> None:
    """To check it, and to decode it for the model and the visualization."""
    parts = Path(shutil.copytree(BOLT / "test" / "good", tmp_path / "parts"))
    save_turned(parts / "turned.png", 6)
    Image.fromarray(gray_levels()).save(parts / "deep.png")
    images, bad = [*parts.iterdir()], [*write_bad(parts).values()]
    opened, builtin = Counter(), open
    monkeypatch.setattr(builtins, "open", lambda path, *rest: opened.update([str(path)]) or builtin(path, *rest))
    engine(tmp_path).predict(make_model(class_name="bolt", post_processor=normalized, visualizer=True), data_path=parts)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("images/**/*.png"))) == len(images)
    assert {opened[str(path)] for path in images} == {2}
    assert {opened[str(path)] for path in bad} == {1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.png", r"None of the files .*text\.png' can't be read as an image"),
        ("empty", r"Found 0 images in .*empty"),
    ],
)
def test_predict_without_any_image(anomalib: Anomalib, tmp_path: Path, name: str, message: str) -> None:
    write_bad(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        anomalib("predict", "--data", tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"), [(" ", "must be a word"), ("very " * 300 + "long", "more than CLIP's 77")]
)
def test_class_names_that_are_none(make_model: Models, engine: Engines, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine().predict(make_model(class_name=name), data_path=GOOD)


def test_16_bits_predict_as_8_bits(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """The same picture in both depths gives the same score."""
    levels = np.asarray(Image.open(GOOD / "000.png").convert("L"))
    Image.fromarray(levels).save(tmp_path / "8.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    first, second = engine().predict(make_model(class_name="bolt", visualizer=True), data_path=tmp_path)
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map)


@pytest.mark.slow
def test_1x1_and_8000x6000_images(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    for size in ((1, 1), (8000, 6000)):
        Image.new("RGB", size, (90, 120, 60)).save(tmp_path / f"{size[0]}.png", compress_level=1)
    first, second = engine().predict(make_model(class_name="bolt"), data_path=tmp_path)
    torch.testing.assert_close(first.pred_score, second.pred_score)  # both are one colour


# --- anomalib's Folder ---


def folder(**kwargs: object) -> Folder:
    return Folder("parts", root=BOLT, **NORMAL, train_batch_size=4, eval_batch_size=4, num_workers=0, **kwargs)


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("action", ["test", "train"])
def test_only_normal_images(
    make_model: Models, engine: Engines, caplog: pytest.LogCaptureFixture, shots: int, action: str
) -> None:
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        (metrics,) = getattr(engine(), action)(make_model(k_shot=shots), datamodule=folder())
    assert metrics == {}
    assert "image_AUROC" in caplog.text


@pytest.mark.parametrize("shots", [0, 2])
def test_defects_without_masks(make_model: Models, engine: Engines, shots: int) -> None:
    (metrics,) = engine().test(make_model(k_shot=shots), datamodule=folder(abnormal_dir="test/scratch"))
    assert set(metrics) == {"image_AUROC", "image_F1Score", "image_F1Max", "image_AUPR"}


@pytest.mark.parametrize("command", ["test", "train"])
def test_folder_of_normal_images_on_the_command_line(
    anomalib: Anomalib, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    data = {"name": "parts", "root": BOLT, **NORMAL, "num_workers": 0}
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        results = anomalib(command, "--model.k_shot=2", "--data=Folder", *(f"--data.{k}={v}" for k, v in data.items()))
    assert list(results.glob("images/**/*.png"))
    assert "Not computed, for want of normal or abnormal images, masks or decisions: image_AUROC" in caplog.text
    assert "Thresholds from 2 normal images" in caplog.text
