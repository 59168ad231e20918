# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's command line: train, test and predict with AprilGan, with and without a checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from anomalib.cli.cli import main
from anomalib.data.datamodules.image.visa import VISA_CATEGORIES

from conftest import GOLDEN

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture) -> Run:
    """Runs ``anomalib ...`` in tmp_path and returns what it prints."""

    def anomalib(command: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        extra = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
        monkeypatch.setattr(sys, "argv", ["anomalib", command, *map(str, arguments), *extra])
        main()
        return capfd.readouterr().out

    return anomalib


@pytest.fixture
def model(tiny_arguments: dict) -> list[str]:
    """The arguments that make AprilGan the goldens' model."""
    return [
        "--model",
        "AprilGan",
        *(
            f"--model.{name}={json.dumps(value) if isinstance(value, list) else value}"
            for name, value in tiny_arguments.items()
        ),
    ]


def mvtec(category: str = "bolt") -> list[str]:
    root = GOLDEN / "dataset"
    options = {"root": root, "category": category, "eval_batch_size": 4, "num_workers": 0}
    return ["--data", "MVTecAD", *(f"--data.{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="session")
def visa_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The goldens' images as the categories candle (bolt) and cashew (fabric) of a raw VisA download."""
    root = tmp_path_factory.mktemp("visa")
    rows = [["object", "split", "label", "image", "mask"]]
    for golden, category in (("bolt", "candle"), ("fabric", "cashew")):
        source, images = GOLDEN / "dataset" / golden, f"{category}/Data/Images"
        for split, pattern in (("train", "train/good/*.png"), ("test", "test/*/*.png")):
            for image in sorted(source.glob(pattern)):
                normal = image.parent.name == "good"
                target = f"{images}/{'Normal' if normal else 'Anomaly'}/{split}_{image.parent.name}_{image.stem}.JPG"
                mask = "" if normal else f"{category}/Data/Masks/Anomaly/{Path(target).stem}.png"
                copy(image, root / target)
                if mask:
                    copy(source / "ground_truth" / image.parent.name / f"{image.stem}_mask.png", root / mask)
                rows.append([category, split, "normal" if normal else "anomaly", target, mask])
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert {"candle", "cashew"} <= set(VISA_CATEGORIES)
    return root


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def visa(root: Path, category: str = "candle") -> list[str]:
    options = {"root": root, "category": category, "eval_batch_size": 4, "num_workers": 0}
    return ["--data", "Visa", *(f"--data.{name}={value}" for name, value in options.items())]


def auxiliary_config(folder: Path, visa_root: Path, direction: str) -> Path:
    """A config that trains on one data set and tests on a category of the other."""
    mvtec = {
        "class_path": "anomalib.data.MVTecAD",
        "init_args": {"root": str(GOLDEN / "dataset"), "category": "fabric"},
    }
    visa = {"class_path": "anomalib.data.Visa", "init_args": {"root": str(visa_root), "category": "cashew"}}
    auxiliary, target = (mvtec, visa) if direction == "mvtecad_to_visa" else (visa, mvtec)
    for each in (auxiliary, target):
        each["init_args"] |= {"num_workers": 0, "eval_batch_size": 4}
    data = {
        "class_path": "anomalib_aprilgan.AuxiliaryDataModule",
        "init_args": {"auxiliary": auxiliary, "target": target, "train_batch_size": 4, "num_workers": 0},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({"data": data, "trainer": {"max_epochs": 1}}))
    return path


def trained(model: list[str]) -> list[str]:
    """The model's arguments with adapters to be trained."""
    return [*(argument for argument in model if "adapters" not in argument), "--model.adapters=null"]


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("layout", ["mvtecad", "visa"])
def test_test(run: Run, model: list[str], visa_root: Path, layout: str, shots: int) -> None:
    data = mvtec() if layout == "mvtecad" else visa(visa_root)
    output = run("test", *model, f"--model.k_shot={shots}", *data)
    for metric in (
        "image_AUROC",
        "image_F1Max",
        "image_AUPR",
        "pixel_AUROC",
        "pixel_F1Max",
        "pixel_AUPR",
        "pixel_AUPRO",
    ):
        assert metric in output


@pytest.mark.parametrize("shots", [0, 2])
def test_train_with_given_adapters_calibrates_and_saves(run: Run, model: list[str], tmp_path: Path, shots: int) -> None:
    model = [*model, f"--model.k_shot={shots}"]
    calibrated = run("train", *model, *mvtec())
    folder = tmp_path / "results/AprilGan/MVTecAD/bolt/v0"
    assert len(list((folder / "images").glob("**/*.png"))) == 9
    checkpoint = folder / "weights/lightning/model.ckpt"
    assert metrics(run("test", *model, *mvtec(), "--ckpt_path", checkpoint)) == metrics(calibrated)
    run("predict", *model, "--data", GOLDEN / "dataset/bolt/test/good/000.png", "--ckpt_path", checkpoint)
    assert list(tmp_path.glob("results/AprilGan/latest/images/**/*.png"))


@pytest.mark.slow
def test_benchmark(monkeypatch: pytest.MonkeyPatch, tiny_arguments: dict, demo_root: Path, tmp_path: Path) -> None:
    """anomalib's own comparison finds the short name, and runs a zero-shot model without training data."""
    data = {"root": str(demo_root), "category": {"grid": ["coins", "gravel"]}, "num_workers": 0}
    jobs = {
        "seed": 0,
        "model": {"class_path": "AprilGan", "init_args": {**tiny_arguments, "k_shot": 1}},
        "data": {"class_path": "MVTecAD", "init_args": data},
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"accelerator": ["cpu"], "benchmark": jobs}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anomalib", "benchmark", "--config", "benchmark.yaml"])
    main()
    (results,) = tmp_path.glob("runs/**/results.csv")
    with results.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["data.init_args.category"] for row in rows] == ["coins", "gravel"]
    assert all(0 < float(row["pixel_AUROC"]) < 1 for row in rows)


@pytest.mark.parametrize("direction", ["mvtecad_to_visa", "visa_to_mvtecad"])
def test_train_then_test_and_predict_the_checkpoint(
    run: Run, model: list[str], visa_root: Path, tmp_path: Path, direction: str
) -> None:
    config = auxiliary_config(tmp_path, visa_root, direction)
    trained_output = run("train", *trained(model), "--config", config)
    (checkpoint,) = tmp_path.glob("results/AprilGan/*/*/v0/weights/lightning/model.ckpt")
    assert checkpoint.stat().st_size < 500_000
    tested = run("test", *trained(model), "--config", config, "--ckpt_path", checkpoint)
    assert metrics(tested) == metrics(trained_output)
    run("predict", *trained(model), "--data", GOLDEN / "dataset/bolt/test/good/000.png", "--ckpt_path", checkpoint)
    few = [argument for argument in model if "adapters" not in argument] + [f"--model.adapters={checkpoint}"]
    run("test", *few, "--model.k_shot=1", *mvtec())


def metrics(output: str) -> dict[str, float]:
    """The metrics in Lightning's table."""
    rows = [line.split("│") for line in output.splitlines() if "_AU" in line or "_F1" in line]
    return {row[1].strip(): float(row[2]) for row in rows}


@pytest.mark.parametrize("shots", [0, 1])
def test_predict_an_image_and_a_folder(run: Run, model: list[str], tmp_path: Path, shots: int) -> None:
    source = GOLDEN / "dataset/bolt"
    arguments = [
        *model,
        "--model.class_name",
        "bolt",
        f"--model.k_shot={shots}",
        f"--model.few_shot_source={source / 'train'}",
    ]
    run("predict", *arguments, "--data", source / "test/good/000.png")
    assert len(list(tmp_path.glob("results/**/*.png"))) == 1
    run("predict", *arguments, "--data", source / "test")
    assert len(list(tmp_path.glob("results/**/*.png"))) >= 9


def test_print_config(run: Run, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run("train", "--model", "AprilGan", "--print_config")
    config = yaml.safe_load(capfd.readouterr().out)
    assert config["model"]["class_path"].endswith("AprilGan")
    assert config["model"]["init_args"]["backbone"] == "ViT-L-14-336"


def test_resuming_training_continues_where_it_stopped(
    run: Run, model: list[str], visa_root: Path, tmp_path: Path
) -> None:
    """Two epochs at once give the weights of one epoch and another from its checkpoint."""
    config = auxiliary_config(tmp_path, visa_root, "mvtecad_to_visa")
    common = [*trained(model), "--config", config]
    run("fit", *common, "--trainer.max_epochs=2", "--default_root_dir=whole")
    run("fit", *common, "--trainer.max_epochs=1", "--default_root_dir=half")
    (half,) = tmp_path.glob("half/**/model.ckpt")
    # Another number of workers must not matter, and loads the first batches before Lightning has set the epoch.
    resume = ["--trainer.max_epochs=2", "--default_root_dir=rest", "--data.init_args.num_workers=1"]
    run("fit", *common, *resume, "--ckpt_path", half)
    whole, rest = (
        torch.load(next(tmp_path.glob(f"{name}/**/model.ckpt")), weights_only=True) for name in ("whole", "rest")
    )
    assert whole["epoch"] == rest["epoch"] == 1
    assert whole["optimizer_states"][0]["state"][0]["step"] == rest["optimizer_states"][0]["state"][0]["step"]
    for name, tensor in whole["state_dict"].items():
        torch.testing.assert_close(rest["state_dict"][name], tensor, msg=name, equal_nan=True)
