# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for anomalib: each still needed, and working."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import anomalib.metrics
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, MVTecLOCO, PredictDataset, Visa
from anomalib.data.utils import read_image
from anomalib.utils.path import generate_output_filename
from PIL import Image
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Mask

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.comparison.ground_truth import read_ground_truth
from anomalib_aprilgan.compat import anomalib as compat
from anomalib_aprilgan.data.images import read_if_misread, read_rgb
from anomalib_aprilgan.plugin import repair_benchmark
from bad_files import IMAGE, gray_levels, save_turned, write_bad

JOB = "anomalib.pipelines.benchmark.job"


def deep(folder: Path) -> Path:
    Image.fromarray(gray_levels()).save(folder / "deep.png")
    return folder / "deep.png"


def turned(folder: Path) -> Path:
    save_turned(folder / "turned.png", 3)  # upside down: same sides
    return folder / "turned.png"


@pytest.mark.parametrize("make", [deep, turned])
def test_anomalib_misreads_images(tmp_path: Path, make) -> None:
    path = make(tmp_path)
    with Image.open(path) as image:
        assert compat.is_misread(image)
    assert not torch.allclose(torch.as_tensor(read_image(path, as_tensor=True)), read_rgb(path), atol=0.1)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_misread_images_of_a_batch_are_read_again(tmp_path: Path, batch_size: int) -> None:
    path = turned(tmp_path)
    paths = [str(IMAGE)] * (batch_size - 1) + [str(path)]
    batch = ImageBatch(image=torch.rand(batch_size, 3, 40, 60), image_path=paths)
    first = batch.image[0].clone()
    compat.restore_misread(batch, read_if_misread, Resize((8, 8)))
    torch.testing.assert_close(batch.image[-1], read_rgb(path))
    assert batch_size == 1 or torch.equal(batch.image[0], first)


def test_a_mask_that_lies_on_its_side_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    save_turned(path, 6)
    batch = ImageBatch(image=torch.rand(1, 3, 40, 60), image_path=[str(path)], gt_mask=Mask(torch.ones(1, 40, 60)))
    with pytest.raises(ValueError, match=r"turned by its EXIF data to 40 x 60 pixels, but its mask has 60 x 40: turn"):
        compat.restore_misread(batch, read_if_misread, Resize((8, 8)))
    batch.gt_mask = Mask(torch.zeros(1, 40, 60))  # of a normal image, made by anomalib
    compat.restore_misread(batch, read_if_misread, Resize((8, 8)))
    assert batch.image.shape == (1, 3, 60, 40)


def test_anomalib_stops_at_a_file_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot identify image file"):
        PredictDataset(write_bad(tmp_path)["text"])[0]


def test_anomalib_gives_visualizations_the_same_name(tmp_path: Path) -> None:
    paths = [tmp_path / "parts" / folder / "left" / "1.png" for folder in "ab"]
    assert len({generate_output_filename(path, tmp_path) for path in paths}) == 1
    ours = [*compat.output_paths(paths, tmp_path / "images", None).values()]
    assert ours == [tmp_path / "images" / "parts" / folder / "left" / "1.png" for folder in "ab"]


def test_images_of_a_test_keep_anomalibs_place_unless_two_would_meet_there(tmp_path: Path) -> None:
    data = SimpleNamespace(name="parts", category=None)
    one = [tmp_path / "day1" / name for name in ("1.png", "2.png")]
    assert [*compat.output_paths(one, tmp_path, data).values()] == [
        generate_output_filename(path, tmp_path, "parts", None) for path in one
    ]
    two = [tmp_path / day / "bad" / "1.png" for day in ("day1", "day2")]
    assert [path.parts[-3:] for path in compat.output_paths(two, tmp_path, data).values()] == [
        (day, "bad", "1.png") for day in ("day1", "day2")
    ]


def test_hidden_folders_are_no_categories(tmp_path: Path) -> None:
    for name in ("bolt", ".ipynb_checkpoints"):
        (tmp_path / name / "test" / "good").mkdir(parents=True)
        (tmp_path / name / "test" / "good" / "0.png").touch()
    assert compat.category_folders(tmp_path) == ["bolt"]


def test_common_folder() -> None:
    assert compat.common_folder([Path("/a/b/c/1.png"), Path("/a/b/2.png")]) == Path("/a/b")
    assert compat.common_folder([Path("/a/b/1.png")]) == Path("/a/b")


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.filterwarnings("ignore:No (positive|negative) samples in targets")
def test_anomalib_has_an_auroc_of_one_kind_of_images(label: int) -> None:
    scores, labels = torch.rand(4), torch.full((4,), label)
    theirs = anomalib.metrics.AUROC(fields=["pred_score", "gt_label"])
    theirs.update(ImageBatch(image=torch.zeros(4, 3, 2, 2), pred_score=scores, gt_label=labels))
    assert theirs.compute() == 0
    assert compat.image_metrics(scores, labels) is None


def test_a_reset_f1_max_of_anomalib_remembers_its_value() -> None:
    theirs = anomalib.metrics.F1Max(fields=["pred_score", "gt_label"])
    theirs.update(ImageBatch(image=torch.zeros(2, 3, 2, 2), pred_score=torch.rand(2), gt_label=torch.tensor([0, 1])))
    theirs.compute()
    theirs.reset()
    assert theirs.update_called


def test_anomalib_makes_empty_folders_of_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "visa" / "split_csv").mkdir(parents=True)
    (tmp_path / "visa" / "split_csv" / "1cls.csv").write_text("object,split,label,image,mask\n")
    Visa(tmp_path / "visa", "candle").apply_cls1_split()
    (root,) = {path.parent for path in tmp_path.rglob("cashew")}
    assert compat.category_folders(root) == []


def test_a_benchmark_of_runs_with_different_metrics_makes_a_table() -> None:
    # Executed anew: the start-up hook has repaired the one that can be imported.
    spec = importlib.util.spec_from_file_location("untouched", importlib.util.find_spec(JOB).origin)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    runs = [{"seed": 1, "image_AUROC": 0.5}, {"seed": 2, "image_AUROC": 0.25, "pixel_AUROC": 1.0}]
    with pytest.raises(KeyError):
        job.BenchmarkJob.collect(runs)
    with pytest.raises(ValueError, match="same length"):
        job.BenchmarkJob.collect(runs[::-1])
    repair_benchmark(job)
    for results in (runs, runs[::-1]):
        assert job.BenchmarkJob.collect(results).to_dict("list")["seed"] == [run["seed"] for run in results]
    assert job.BenchmarkJob.collect(runs).isna().sum().to_dict() == {"seed": 0, "image_AUROC": 0, "pixel_AUROC": 1}


def loco(root: Path) -> MVTecLOCO:
    """A category whose defects have two masks each."""
    for part in ("train/good", "validation/good", "test/good", "test/logical_anomalies"):
        (root / "pushpins" / part).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / "pushpins" / part / "000.png")
    masks = root / "pushpins" / "ground_truth" / "logical_anomalies" / "000"
    masks.mkdir(parents=True)
    for number in range(2):
        mask = Image.new("L", (32, 32))
        mask.paste(255, (10 * number, 0, 10 * number + 5, 32))
        mask.save(masks / f"{number:03d}.png")
    return MVTecLOCO(root, "pushpins", num_workers=0)


@pytest.mark.filterwarnings(
    "ignore:The 'future.infer_string' option is deprecated"
)  # pandas 3 warns, pandas 2 does not
def test_all_masks_of_an_image_of_mvtec_loco_count(tmp_path: Path) -> None:
    """With pandas 3's strings, to which pyproject.toml holds us below, anomalib's own class fails."""
    data = loco(tmp_path)
    with pd.option_context("future.infer_string", True), pytest.raises((TypeError, ValueError)):
        data.setup()
    with pd.option_context("future.infer_string", False):
        training = AuxiliaryDataModule(data, num_workers=0, mosaic_probability=0)
        training.setup("fit")
        (mask,) = [item.gt_mask for item in training.train_data if item.gt_label]
        assert mask.sum() == 2 * 5 * 32
        data.setup()
        path = data.test_data.samples.image_path[data.test_data.samples.label_index == 1].item()
        truth = read_ground_truth(data, [path], 32)
        assert truth.masks is not None
        assert truth.masks.sum() == 2 * 5 * 32
