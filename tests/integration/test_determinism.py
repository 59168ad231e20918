# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The same seed gives the same result to the bit, whatever else has drawn random numbers before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.data.references import draw_references
from conftest import DATASET, Engines, Models, golden_data

UNEQUAL = {"seconds_per_image", "peak_memory_mib", "finished"}


def disturb(number: int) -> None:
    """Other code that uses the global generators."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


@pytest.mark.slow
def test_training(make_model: Models, engine: Engines) -> None:
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        disturb(number)
        model = make_model(adapters=None, seed=seed)
        data = AuxiliaryDataModule(golden_data(), None, ["bolt"], 0.5, train_batch_size=3, num_workers=0, seed=seed)
        engine(max_epochs=2).fit(model, datamodule=data)
        weights.append(model.model.adapters.state_dict())
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
    images = []
    for number in (0, 1):
        disturb(number)
        data = AuxiliaryDataModule(golden_data(), None, ["bolt"], mosaic_probability=1.0, num_workers=0, seed=5)
        data.setup("fit")
        images.append([data.train_data[index] for index in (8, 0, 13)])
    for one, two in zip(*images, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.gt_mask, two.gt_mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("anomalib_aprilgan.AprilGan", {}),
        ("anomalib_aprilgan.comparison.spade.Spade", {"backbone": "resnet10t", "pre_trained": False, "image_size": 64}),
    ],
    ids=["AprilGan", "SPADE"],
)
def test_comparison(tiny_arguments: dict, class_path: str, init_args: dict) -> None:
    model = ModelSpec(class_path, init_args or tiny_arguments)
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    grid = Grid({"model": model}, {"goldens": data}, [2], [0], 70, 1, {"accelerator": "cpu"})
    rows = []
    for number in (0, 1):
        disturb(number)
        _, row, pictures = run_job(grid, Job("model", "goldens", "bolt", 2, 0))
        assert row["error"] is None
        rows.append(({name: value for name, value in row.items() if name not in UNEQUAL}, pictures))
    (first, pictures), (second, again) = rows
    assert first == second
    for name, picture in pictures.items():
        np.testing.assert_array_equal(picture, again[name])
