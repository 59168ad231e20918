# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Trains the adapters of a comparison once, before its runs."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning import seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.comparison.classes import find_class, instantiate
from anomalib_aprilgan.comparison.datasets import check_root, named_problems
from anomalib_aprilgan.comparison.fingerprints import Fingerprints, argument_fingerprints, samples_hash, samples_of
from anomalib_aprilgan.comparison.grid import Grid, ModelSpec, Training
from anomalib_aprilgan.comparison.progress import TrainingProgress, stage
from anomalib_aprilgan.comparison.runs import QUIET, silence
from anomalib_aprilgan.data.auxiliary import AuxiliaryDataModule, categories_to_train_on
from anomalib_aprilgan.lightning_model import AprilGan


def training_fingerprints(grid: Grid) -> dict[str, Fingerprints]:
    """The hash of the images and masks that each model's adapters are trained on, for those that are trained.

    Raises:
        FileNotFoundError: If the images are not on disk.
        ValueError: If they can't be used, or the adapters of a model can't be trained.
    """
    return {name: _fingerprints(spec, spec.train, name) for name, spec in grid.models.items() if spec.train is not None}


def _fingerprints(spec: ModelSpec, train: Training, name: str) -> Fingerprints:
    kind = find_class(spec.class_path, AnomalibModule, f"models.{name}")
    if not issubclass(kind, AprilGan) or spec.init_args.get("adapters") is not None:
        msg = f"`models.{name}.train` makes the adapters of an AprilGan whose `adapters` are not set: leave one out."
        raise ValueError(msg)
    return {"training images": samples_hash(samples_of(_data(train, name).train_data))}


def _data(
    train: Training, name: str, stage: TrainerFn | None = None, memory: float | None = None
) -> AnomalibDataModule:
    """The data module to train with, set up; for ``TrainerFn.FITTING`` all its files are decoded.

    They are held up to ``memory`` bytes (None: half of what is free).
    """
    datamodule = instantiate(AnomalibDataModule, train.data["class_path"], train.data.get("init_args", {}))
    if isinstance(datamodule, AuxiliaryDataModule):
        datamodule.memory_for_files = memory
    check_root(getattr(datamodule, "auxiliary", datamodule), f"`models.{name}.train`")
    with named_problems(f"The data of `models.{name}.train`", "Correct the files, or choose other `categories`."):
        datamodule.prepare_data()
        datamodule.setup(stage)
        categories_to_train_on(datamodule)
    return datamodule


def with_adapters(
    grid: Grid,
    output: Path,
    training: Mapping[str, Fingerprints],
    names: Collection[str],
    memory: float | None = None,
) -> Grid:
    """The grid with each model's ``train`` replaced by trained adapters, which are kept in ``output``.

    Args:
        grid: The comparison.
        output: Its folder.
        training: What ``training_fingerprints`` returned.
        names: Of the models that are run; the others are not trained.
        memory: Bytes for decoded files; None: for each model half of what is free.

    Raises:
        ValueError: If an image or mask can't be used; nothing has been trained then.
    """
    trained = {name: spec.train for name, spec in grid.models.items() if spec.train is not None and name in names}
    paths = {name: _path(grid.models[name], output, training[name]) for name in trained}
    missing = {path: name for name, path in paths.items() if not path.exists()}
    modules = {}
    for number, (path, name) in enumerate(missing.items()):
        stage(f"checking the training images of {name}", number, len(missing), "models")
        share = None if memory is None else memory / len(missing)
        modules[path] = _data(trained[name], name, TrainerFn.FITTING, share)
    for path, name in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer = {**grid.trainer, "max_epochs": trained[name].max_epochs}
        with silence():
            _train(grid.models[name], modules[path], path, trainer, TrainingProgress(f"the adapters of {name}"))
    models = {
        name: replace(spec, init_args={**spec.init_args, "adapters": str(paths[name])}, train=None)
        for name, spec in grid.models.items()
        if name in paths
    }
    return replace(grid, models={**grid.models, **models})


def _path(spec: ModelSpec, output: Path, training: Fingerprints) -> Path:
    """The file of adapters, named by all that they depend on, so that another training does not take an old one."""
    facts = [asdict(replace(spec, shots=None)), training, argument_fingerprints(spec.init_args)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return output.resolve() / "adapters" / f"{digest}.ckpt"


def _train(
    spec: ModelSpec, datamodule: AnomalibDataModule, path: Path, trainer: dict[str, Any], progress: Callback
) -> None:
    seed_everything(0, workers=True, verbose=False)
    off = {"evaluator": False, "visualizer": False}
    model = instantiate(AnomalibModule, spec.class_path, {**spec.init_args, "adapters": None, **off})
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        arguments = {**QUIET, "devices": 1, **trainer, "limit_val_batches": 0}
        engine = Engine(callbacks=[progress], default_root_dir=folder, **arguments)
        engine.fit(model, datamodule=datamodule)
        engine.trainer.save_checkpoint(Path(folder) / "adapters.ckpt")
        os.replace(Path(folder) / "adapters.ckpt", path)
