# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What is compared: models x data sets x categories x shots x seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

POOL = -1  # references of a run in which the test images score each other, "pool" in configurations
Shots = int | Literal["pool"]


@dataclass(frozen=True)
class Training:
    """How to train the adapters of an AprilGan once, before the grid.

    Args:
        data: class_path and init_args of an AuxiliaryDataModule.
        max_epochs: Passes through it.
    """

    data: dict[str, Any]
    max_epochs: int = 3


@dataclass(frozen=True)
class ModelSpec:
    """One model of the comparison.

    Args:
        class_path: Import path of an anomalib model.
        init_args: Its arguments; the comparison adds references and category, and switches post-processing off.
        shots: The only numbers of references that it is run with. None: all of the grid's that it can do.
        train: How to train the adapters that ``init_args`` does not name.
        trainer: Arguments of Lightning's Trainer for this model alone, such as max_epochs.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    shots: list[Shots] | None = None
    train: Training | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSpec:
    """One data set of the comparison.

    Args:
        class_path: Import path of an anomalib data module.
        init_args: Its arguments other than ``category``.
        categories: Names; None: all that are on disk.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    categories: list[str] | None = None


@dataclass(frozen=True)
class Job:
    """One run: a model on a category of a data set with k reference images drawn with a seed, or with a POOL."""

    model: str
    dataset: str
    category: str
    shots: int
    seed: int

    def __str__(self) -> str:
        return f"{self.model}, {self.dataset}/{self.category}, {shots_name(self.shots)}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """All settings of a comparison.

    Args:
        models: By their names in tables.
        datasets: By their names in tables.
        shots: Numbers of reference images; 0: none; "pool": an AprilGan scores the test images by each other too.
        seeds: For the draws of references and everything else that is random.
        mask_size: Height and width in pixels to which maps and masks of all models are resized.
        thumbnails: Test images per category that are kept with their maps for figures.
        trainer: Arguments of Lightning's Trainer.
    """

    models: dict[str, ModelSpec]
    datasets: dict[str, DataSpec]
    shots: list[Shots]
    seeds: list[int]
    mask_size: int
    thumbnails: int
    trainer: dict[str, Any]

    def __post_init__(self) -> None:
        for name, values in (("models", self.models), ("datasets", self.datasets), ("seeds", self.seeds)):
            if not values:
                msg = f"`{name}` is empty: a comparison needs at least one of them."
                raise ValueError(msg)
        numbers = [k for k in self.shots if k != "pool"]
        if not self.shots or min(numbers, default=0) < 0 or len(set(self.shots)) < len(self.shots):
            msg = f"`shots` must be different numbers from 0 up, got {self.shots}; 'pool' may be among them."
            raise ValueError(msg)
        if self.mask_size < 1:
            msg = f"`mask_size` must be a number of pixels, got {self.mask_size}."
            raise ValueError(msg)

    def for_job(self, job: Job) -> Grid:
        """The comparison with the model's own arguments of the Trainer among all models', and the run's pool."""
        spec = self.models[job.model]
        pool = {"pool": True} if job.shots == POOL else {}
        changed = replace(spec, init_args={**spec.init_args, **pool})
        return replace(self, models={**self.models, job.model: changed}, trainer={**self.trainer, **spec.trainer})

    def settings(self, model: str, dataset: str) -> str:
        """A digest of all settings that change a model's results on a data set; different ones do not mix."""
        data = asdict(self.datasets[dataset])
        del data["categories"]  # more of them may be added to a finished grid
        spec = asdict(self.models[model])
        del spec["shots"]  # these too
        if not spec["trainer"]:
            del spec["trainer"]  # as in results of before this key
        facts = [spec, data, self.mask_size, self.trainer]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def arguments(self, model: str, dataset: str) -> dict[str, dict[str, Any]]:
        """The arguments of a model, with all else that changes it, and of a data set, as JSON holds them."""
        spec = {name: value for name, value in asdict(self.models[model]).items() if value and name != "shots"}
        del spec["class_path"]
        arguments = {"model": {**spec.pop("init_args", {}), **spec}, "data": self.datasets[dataset].init_args}
        return json.loads(json.dumps(arguments, default=str))

    def jobs(self, categories: Mapping[str, Iterable[str]], possible: Mapping[str, Sequence[int]]) -> list[Job]:
        """All runs; those of one model are adjacent, so that a worker can keep its CLIP.

        Nothing is random without references, so 0 shots and pools are run with the first seed only.

        Args:
            categories: Those of each data set.
            possible: Numbers of references that each model can be run with, or POOL.
        """
        return [
            Job(model, dataset, category, shots, seed)
            for dataset in self.datasets
            for model in self.models
            for category in categories[dataset]
            for shots in possible[model]
            for seed in (self.seeds if shots > 0 else self.seeds[:1])
        ]


def shots_name(shots: int) -> str:
    """How a run is named by its number of references."""
    return "pool" if shots == POOL else f"{shots}-shot"


def read_models(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelSpec]:
    """The models of a configuration.

    Raises:
        ValueError: If a class path is missing or a key is unknown.
    """
    specs = {}
    for name, entry in raw.items():
        values = _checked(entry, ModelSpec, f"models.{name}")
        if values.get("train") is not None:
            values["train"] = Training(**_checked(values["train"], Training, f"models.{name}.train"))
        specs[name] = ModelSpec(**values)
    return specs


def read_datasets(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, DataSpec]:
    """The data sets of a configuration.

    Raises:
        ValueError: If a class path is missing or a key is unknown.
    """
    return {name: DataSpec(**_checked(entry, DataSpec, f"datasets.{name}")) for name, entry in raw.items()}


def _checked(entry: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    unknown = sorted(set(entry) - set(known))
    if unknown or known[0] not in entry:
        problem = f"has {unknown}" if unknown else f"has no {known[0]!r}"
        msg = f"`{where}` {problem}: its keys are {known}, the first is needed."
        raise ValueError(msg)
    return dict(entry)


def slug(name: str) -> str:
    """The name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def unique_slug(*names: str) -> str:
    """The names as part of a file name that no other names have, also where upper and lower case are the same."""
    readable = "__".join(map(slug, names)).encode()[:120].decode(errors="ignore")  # file systems take 255 bytes
    return f"{readable}__{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]}"
