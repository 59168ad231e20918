# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Trains the adapters of a comparison once, before its runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning import seed_everything

from anomalib_aprilgan.comparison.classes import find_class, instantiate
from anomalib_aprilgan.comparison.grid import Grid, ModelSpec, Training
from anomalib_aprilgan.comparison.runs import QUIET, silence
from anomalib_aprilgan.lightning_model import AprilGan

logger = logging.getLogger(__name__)


def with_adapters(grid: Grid, output: Path) -> Grid:
    """The grid with each model's ``train`` replaced by trained adapters, which are kept in ``output``."""
    models = {
        name: spec if spec.train is None else _trained(spec, spec.train, name, output, grid.trainer)
        for name, spec in grid.models.items()
    }
    return replace(grid, models=models)


def _trained(spec: ModelSpec, train: Training, name: str, output: Path, trainer: dict[str, Any]) -> ModelSpec:
    kind = find_class(spec.class_path, AnomalibModule, f"models.{name}")
    if not issubclass(kind, AprilGan) or spec.init_args.get("adapters") is not None:
        msg = f"`models.{name}.train` makes the adapters of an AprilGan whose `adapters` are not set: leave one out."
        raise ValueError(msg)
    # The name depends on all settings, so that another training does not take an old file.
    digest = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:12]
    path = output.resolve() / "adapters" / f"{digest}.ckpt"
    if not path.exists():
        logger.info("Training the adapters of %s", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with silence():
            _train(spec, train, path, trainer)
    return replace(spec, init_args={**spec.init_args, "adapters": str(path)}, train=None)


def _train(spec: ModelSpec, train: Training, path: Path, trainer: dict[str, Any]) -> None:
    seed_everything(0, workers=True, verbose=False)
    off = {"evaluator": False, "visualizer": False}
    model = instantiate(AnomalibModule, spec.class_path, {**spec.init_args, "adapters": None, **off})
    datamodule = instantiate(AnomalibDataModule, train.data["class_path"], train.data.get("init_args", {}))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        arguments = {**QUIET, "devices": 1, **trainer, "max_epochs": train.max_epochs, "limit_val_batches": 0}
        engine = Engine(default_root_dir=folder, **arguments)
        engine.fit(model, datamodule=datamodule)
        engine.trainer.save_checkpoint(Path(folder) / "adapters.ckpt")
        os.replace(Path(folder) / "adapters.ckpt", path)
