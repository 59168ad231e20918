# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The same seed gives the same result to the bit, whatever else has drawn random numbers before."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.data.references import draw_references
from conftest import GOLDEN

DATASET = GOLDEN / "dataset"
UNEQUAL = {"seconds_per_image", "peak_memory_mib", "finished"}


def disturb(number: int) -> None:
    """Other code that uses the global generators."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def trained(arguments: dict, folder: Path, seed: int) -> dict[str, torch.Tensor]:
    engine = Engine(default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False)
    model = AprilGan(**{**arguments, "adapters": None}, seed=seed, visualizer=False)
    auxiliary = MVTecAD(DATASET, "bolt", num_workers=0)
    data = AuxiliaryDataModule(auxiliary, None, ["bolt"], 0.5, train_batch_size=3, num_workers=0, seed=seed)
    engine.fit(model, datamodule=data)
    return {name: value for name, value in model.state_dict().items() if "adapters" in name}


def test_training(tiny_arguments: dict, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        disturb(number)
        weights.append(trained(tiny_arguments, tmp_path / str(number), seed))
    first, second, other = weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("with_replacement", [False, True])
def test_references_do_not_depend_on_the_order_of_files(with_replacement: bool) -> None:
    paths = [f"{index:03}.png" for index in range(30)]
    disturb(0)
    first = draw_references(paths, 5, 7, with_replacement)
    disturb(1)
    assert draw_references(paths[::-1], 5, 7, with_replacement) == first
    assert draw_references(paths, 5, 8, with_replacement) != first


def test_mosaics() -> None:
    auxiliary = MVTecAD(DATASET, "bolt", num_workers=0)
    images = []
    for number in (0, 1):
        disturb(number)
        data = AuxiliaryDataModule(auxiliary, None, ["bolt"], mosaic_probability=1.0, num_workers=0, seed=5)
        data.setup("fit")
        images.append([data.train_data[index] for index in (8, 0, 13)])
    for one, two in zip(*images, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.gt_mask, two.gt_mask)


@pytest.mark.parametrize(
    "spec",
    [
        ("anomalib_aprilgan.AprilGan", {}),
        ("anomalib_aprilgan.comparison.spade.Spade", {"backbone": "resnet10t", "pre_trained": False, "image_size": 64}),
    ],
    ids=["AprilGan", "SPADE"],
)
def test_comparison(tiny_arguments: dict, spec: tuple[str, dict]) -> None:
    class_path, init_args = spec
    model = ModelSpec(class_path, init_args or tiny_arguments)
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    grid = Grid({"model": model}, {"goldens": data}, [2], [0], 70, 1, {"accelerator": "cpu"})
    rows = []
    for number in (0, 1):
        disturb(number)
        row, pictures = run_job(grid, Job("model", "goldens", "bolt", 2, 0))
        assert row["error"] is None
        rows.append(({name: value for name, value in row.items() if name not in UNEQUAL}, pictures))
    (first, pictures), (second, again) = rows
    assert first == second
    for name, picture in pictures.items():
        np.testing.assert_array_equal(picture, again[name])
