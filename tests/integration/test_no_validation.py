# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Data modules that keep no images for validation."""

from __future__ import annotations

import pytest
from anomalib.data import AnomalibDataModule, Folder

from anomalib_aprilgan import AuxiliaryDataModule, PartsDataModule
from conftest import BOLT, Engines, Models, golden_data


def without_validation(kind: str) -> AnomalibDataModule:
    if kind == "MVTecAD":
        return golden_data(val_split_mode="none")
    if kind == "Parts":
        return PartsDataModule(BOLT.parent, category=BOLT.name, val_split_mode="none", num_workers=0)
    folders = {"root": BOLT, "normal_dir": "train/good", "abnormal_dir": "test/scratch", "normal_test_dir": "test/good"}
    return Folder("bolt", **folders, val_split_mode="none", num_workers=0)


@pytest.mark.parametrize("kind", ["MVTecAD", "Folder", "Parts"])
@pytest.mark.parametrize("run", ["test", "train", "predict"])
def test_no_validation_images_are_needed(make_model: Models, engine: Engines, kind: str, run: str) -> None:
    results = getattr(engine(), run)(make_model(class_name="bolt"), datamodule=without_validation(kind))
    assert results


def test_the_target_of_a_training_needs_none(make_model: Models, engine: Engines) -> None:
    name = "fabric"
    data = AuxiliaryDataModule(golden_data(name), without_validation("MVTecAD"), categories=[name], num_workers=0)
    engine(max_epochs=1).fit(make_model(adapters=None), datamodule=data)
    assert data.val_dataloader() == []
