# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A category that is not on disk is an error that lists those which are, never a download beside them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from anomalib.data import AnomalibDataModule, BTech, MVTecAD, Visa

from anomalib_aprilgan import AuxiliaryDataModule
from conftest import DATASET, Engines, Models, golden_data

HOMES = [import_module(f"anomalib.data.datamodules.image.{name}") for name in ("mvtecad", "visa", "btech")]


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders into which anomalib would have downloaded."""
    folders: list[Path] = []

    def download(root: Path, info: object) -> None:
        del info
        folders.append(Path(root))
        raise ConnectionError

    for home in HOMES:
        monkeypatch.setattr(home, "download_and_extract", download)
    return folders


@pytest.mark.parametrize("action", ["fit", "validate", "test", "train", "predict"])
def test_a_misspelt_category(make_model: Models, engine: Engines, downloads: list[Path], action: str) -> None:
    with pytest.raises(ValueError, match=r"'blot' is not in '.*dataset', which has \['bolt', 'fabric'\]: correct"):
        getattr(engine(), action)(make_model(), datamodule=golden_data("blot"))
    assert downloads == []


@pytest.mark.parametrize("kind", [Visa, BTech])
def test_other_data_sets(make_model: Models, engine: Engines, downloads: list[Path], kind: type) -> None:
    with pytest.raises(ValueError, match=r"'blot' is not in .*\['bolt', 'fabric'\]"):
        engine().test(make_model(), datamodule=kind(DATASET, "blot", num_workers=0))
    assert downloads == []


def test_the_target_of_adapter_training(make_model: Models, engine: Engines, downloads: list[Path]) -> None:
    data = AuxiliaryDataModule(golden_data(), golden_data("blot"), categories=["bolt"], num_workers=0)
    with pytest.raises(ValueError, match="'blot' is not in"):
        engine(max_epochs=1).fit(make_model(adapters=None), datamodule=data)
    assert downloads == []


@pytest.mark.parametrize("kind", [MVTecAD, Visa])
def test_nothing_on_disk_is_downloaded(
    make_model: Models, engine: Engines, downloads: list[Path], tmp_path: Path, kind: type[AnomalibDataModule]
) -> None:
    with pytest.raises(ConnectionError):
        engine().test(make_model(), datamodule=kind(tmp_path / "data", "bolt", num_workers=0))
    assert downloads == [tmp_path / "data"]
