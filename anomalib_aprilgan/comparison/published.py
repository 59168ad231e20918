# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Published numbers for comparison with measured ones: ``published.csv`` and ``vand2023.csv``, with their sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd
from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC_CATEGORIES
from anomalib.data.datasets.image.visa import CATEGORIES as VISA_CATEGORIES

WIDE_RESNET: dict[str, list[Any]] = {"backbone": ["wide_resnet50_2"], "pre_trained": [True]}


@dataclass(frozen=True)
class Method:
    """A method of the literature.

    Args:
        name: In ``published.csv``.
        arguments: The values of its model's arguments with which the numbers are about that model.
        needed: Arguments whose default is another value.
    """

    name: str
    arguments: dict[str, list[Any]]
    needed: frozenset[str] = field(default_factory=frozenset)


# By the names of the models' classes.
METHODS = {
    "AprilGan": Method(
        "APRIL-GAN",
        {
            "backbone": ["ViT-L-14-336"],
            "pretrained": ["openai"],
            "image_size": [518],
            "layers": [None, [6, 12, 18, 24]],
            "quick_gelu": [False],
            "adapters": ["auto"],
            "coreset_sampling_ratio": [1],
            "half_precision_memory": [False],
        },
    ),
    "WinClip": Method("WinCLIP", {"scales": [[2, 3]]}),
    "Patchcore": Method("PatchCore", {**WIDE_RESNET, "layers": [["layer2", "layer3"]]}),
    "Padim": Method("PaDiM", {**WIDE_RESNET, "layers": [["layer1", "layer2", "layer3"]]}, frozenset({"backbone"})),
    "Spade": Method("SPADE", {**WIDE_RESNET, "image_size": [224]}),
    "AnomalyDINO": Method("AnomalyDINO", {"encoder_name": ["vit_small_patch14_dinov2"]}),
}
# The comparison sets or does not use them.
IRRELEVANT = {"k_shot", "few_shot_source", "with_replacement", "seed", "learning_rate", "false_positive_rate"}
IRRELEVANT_OF_DATA = {"root", "split_root", "train_batch_size", "eval_batch_size", "num_workers"}


@dataclass(frozen=True)
class DataSet:
    """A data set of the literature: its name in ``published.csv``, its categories, and adapters not trained on it."""

    name: str
    categories: frozenset[str]
    adapters: str


# By the names of the data modules' classes.
DATA_SETS = {
    "MVTecAD": DataSet("MVTecAD", frozenset(MVTEC_CATEGORIES), "visa"),
    "Visa": DataSet("VisA", frozenset(VISA_CATEGORIES), "mvtecad"),
}


class Published(NamedTuple):
    """A published mean in percent, and whether it is known only from papers that quote it."""

    mean: float
    second_hand: bool


def is_whole(data_class: str, categories: Iterable[str]) -> bool:
    """Whether these are all categories of a data set of the literature, and no others."""
    return data_class in DATA_SETS and DATA_SETS[data_class].categories == set(categories)


def is_published(model_class: str, data_class: str, categories: Iterable[str], arguments: Any) -> bool:
    """Whether published numbers are about this model on these data.

    Args:
        model_class: Name of an anomalib model's class.
        data_class: Name of an anomalib data module's class.
        categories: All that were tested.
        arguments: Those of "model" and "data", as in a row of results; anything else: unknown.
    """
    method = METHODS.get(model_class)
    if method is None or not is_whole(data_class, categories) or not isinstance(arguments, Mapping):
        return False
    given = {name: value for name, value in arguments["model"].items() if name not in IRRELEVANT}
    if given.get("adapters") == DATA_SETS[data_class].adapters:
        given["adapters"] = "auto"
    same = all(value in method.arguments.get(name, []) for name, value in given.items())
    return same and method.needed <= given.keys() and arguments["data"].keys() <= IRRELEVANT_OF_DATA


def published_number(model_class: str, data_class: str, shots: int, metric: str) -> Published | None:
    """Return the published mean, or None.

    The PRO in APRIL-GAN's paper is the authors' own; that of all other methods is the usual one.

    Args:
        model_class: Name of an anomalib model's class.
        data_class: Name of an anomalib data module's class.
        shots: Number of references.
        metric: Name of a column in tables.
    """
    method, data = METHODS.get(model_class), DATA_SETS.get(data_class)
    if method is None or data is None:
        return None
    if metric == ("pixel_PRO" if method.name == "APRIL-GAN" else "pixel_PRO_authors"):
        return None
    name = "pixel_PRO" if metric == "pixel_PRO_authors" else metric
    return _numbers().get((method.name, shots, data.name, name))


@cache
def _numbers() -> dict[tuple, Published]:
    table = read_table("published.csv")
    return {
        (row.method, row.shots, row.dataset, row.metric): Published(float(row.mean), "second-hand" in row.source)
        for row in table.itertuples()
    }


def read_table(name: str) -> pd.DataFrame:
    """One of the package's tables of published numbers."""
    with (files("anomalib_aprilgan.comparison") / name).open() as file:
        return pd.read_csv(file)
