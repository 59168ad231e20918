# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and metrics reach Lightning's and anomalib's loggers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger

from anomalib_aprilgan import AuxiliaryDataModule
from conftest import Engines, Models, golden_data


def test_csv(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """One epoch of adapter training, then a test: the loss, and the metrics that the test returns."""
    run = engine(tmp_path, logger=CSVLogger(tmp_path), max_epochs=1, log_every_n_steps=1)
    model = make_model(adapters=None)
    run.fit(model, datamodule=AuxiliaryDataModule(golden_data("fabric"), num_workers=0))
    (metrics,) = run.test(model, datamodule=golden_data(eval_batch_size=4))
    (path,) = tmp_path.rglob("metrics.csv")
    table = pd.read_csv(path)
    assert table["train_loss"].dropna().gt(0).all()
    assert len(table["train_loss"].dropna()) == 1
    for name, value in metrics.items():
        assert table[name].dropna().iloc[-1] == pytest.approx(value, abs=1e-6)


def test_tensorboard(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from anomalib.loggers import AnomalibTensorBoardLogger

    run = engine(tmp_path, logger=AnomalibTensorBoardLogger(str(tmp_path)))
    run.test(make_model(k_shot=1, visualizer=True), datamodule=golden_data(eval_batch_size=4))
    (path,) = tmp_path.rglob("events.out.tfevents*")
    assert path.stat().st_size > 0
