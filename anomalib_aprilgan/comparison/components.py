# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Models and data modules from class paths, prepared so that all are compared on the same terms."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from anomalib.models import WinClip
from anomalib.models.components import AnomalibModule
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.comparison.grid import DataSpec, Grid, ModelSpec
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.data.auxiliary import category_names
from anomalib_aprilgan.data.demo import DemoDataModule
from anomalib_aprilgan.data.references import read_references
from anomalib_aprilgan.lightning_model import AprilGan

# From this release on, WinClip's windows lose their order of dimensions in CLIP's transformer.
BREAKS_WINCLIP = (2, 26, 1)
# AprilGan and WinClip beside each other.
CLIPS_PER_WORKER = 2


# --- classes ---


def find_class(class_path: str, base: type, where: str) -> type:
    """The class at an import path.

    Raises:
        ValueError: If there is none, or it is not a ``base``.
    """
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"`{where}` has the unknown class_path {class_path!r}: give an import path such as anomalib.models.Padim."
        raise ValueError(msg) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"`{where}` has the class_path {class_path!r}, which is not a {base.__name__} of anomalib."
        raise ValueError(msg)
    return found


def takes_references(kind: type) -> bool:
    """Whether the model gets its images by ``k_shot``, none of them included, instead of by training."""
    return "k_shot" in inspect.signature(kind).parameters


def possible_shots(spec: ModelSpec, shots: Sequence[int], name: str) -> list[int]:
    """Those of the grid's shots that the model can do and is to do."""
    least = 0 if takes_references(find_class(spec.class_path, AnomalibModule, f"models.{name}")) else 1
    return [k for k in shots if k >= least and (spec.shots is None or k in spec.shots)]


def instantiate(base: type, class_path: str, init_args: dict[str, Any]) -> Any:
    """An instance, with arguments checked and nested classes made as in anomalib's configurations.

    Raises:
        ValueError: If an argument does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it", fail_untyped=False)
    try:
        config = parser.parse_object({"it": {"class_path": class_path, "init_args": init_args}})
    except ArgumentError as error:
        msg = f"{class_path} can't be made with the `init_args` {init_args}: {error}"
        raise ValueError(msg) from error
    return parser.instantiate_classes(config).it


# --- models ---


def build_model(grid: Grid, name: str, dataset: str, references: Sequence[str], category: str) -> Any:
    """The model, without evaluation, pictures and normalisation, that knows its references if it takes any.

    Raises:
        RuntimeError: If it is WinClip and the installed open_clip breaks it.
    """
    spec = grid.models[name]
    kind = find_class(spec.class_path, AnomalibModule, f"models.{name}")
    if issubclass(kind, WinClip):
        check_winclip(metadata.version("open_clip_torch"))
    if not takes_references(kind):
        return _build(spec.class_path, spec.init_args)
    if issubclass(kind, AprilGan):
        model = _build_once(spec.class_path, json.dumps(spec.init_args), dataset)
        model.post_processor = _bounds_only() if references else None
        model.k_shot, model.few_shot_source = len(references), list(references) or None
    elif issubclass(kind, WinClip):
        model = _build_once(spec.class_path, json.dumps(spec.init_args), dataset)
        _set_up_winclip(model, spec.init_args.get("class_name") or category, references)
    else:  # it collects them from the training data, which are just these
        model = _build(spec.class_path, {**spec.init_args, "k_shot": len(references)})
    return model


def check_winclip(version: str) -> None:
    """Refuse to run WinClip with an open_clip that breaks it.

    Raises:
        RuntimeError: If the version of open_clip is 2.26.1 or later.
    """
    release = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if release >= BREAKS_WINCLIP:
        msg = (
            f"WinClip is refused with open_clip {version}: from 2.26.1 on all window embeddings of an image come out "
            "equal in anomalib's WinClip, and its scores are wrong. Install open_clip_torch 2.24.0 to compare with it."
        )
        raise RuntimeError(msg)


def _build(class_path: str, init_args: dict[str, Any]) -> Any:
    plain = {"post_processor": False, "evaluator": False, "visualizer": False}
    return instantiate(AnomalibModule, class_path, {**init_args, **plain})


@lru_cache(maxsize=CLIPS_PER_WORKER)
def _build_once(class_path: str, init_args: str, dataset: str) -> Any:
    """A model that is set up anew for each run, so that its CLIP is read once per process.

    ``adapters="auto"`` depends on the data set.
    """
    del dataset
    return _build(class_path, json.loads(init_args))


def _bounds_only() -> AprilGanPostProcessor:
    """Finds the range of the maps' maxima, which the few-shot image score is scaled with, and changes no score."""
    return AprilGanPostProcessor(enable_normalization=False, enable_thresholding=False)


def _set_up_winclip(model: Any, class_name: str, references: Sequence[str]) -> None:
    """Class name and references by hand: WinClip takes training images without normalising them.

    Its ``few_shot_source`` asks the pre-processor for an attribute that anomalib 2.7 has not.
    """
    model.model.reference_images, model.model.k_shot = None, 0
    images = read_references(references, model.pre_processor.transform) if references else None
    model.model.setup(class_name, images)
    model.class_name, model.k_shot, model.is_setup = class_name, len(references), True


# --- data ---


def prepare(spec: DataSpec, name: str) -> list[str]:
    """The categories of a data set that is on disk; the demo data are made if they are not.

    Raises:
        FileNotFoundError: If the data set is not there.
        ValueError: If a category is not.
    """
    kind = find_class(spec.class_path, AnomalibDataModule, f"datasets.{name}")
    datamodule = instantiate(AnomalibDataModule, spec.class_path, spec.init_args)
    root = getattr(datamodule, "root", None)
    makes_itself = issubclass(kind, DemoDataModule)
    if root is not None and not Path(root).is_dir() and not makes_itself:
        msg = (
            f"The `root` {str(root)!r} of the data set {name!r} does not exist: download it first, or correct the path."
        )
        raise FileNotFoundError(msg)
    if spec.categories == []:
        msg = f"`datasets.{name}.categories` is empty: name some, or leave it out to take all."
        raise ValueError(msg)
    wanted = spec.categories or category_names(datamodule)
    if datamodule.category and not makes_itself:
        _check_categories(wanted, name, Path(datamodule.root))  # anomalib would download the whole data set
    build_datamodule(spec, wanted[0]).prepare_data()
    return spec.categories or category_names(datamodule)


def _check_categories(categories: Sequence[str], name: str, root: Path) -> None:
    outside = [category for category in categories if Path(category).name != category]
    if outside:
        msg = (
            f"`datasets.{name}.categories` must be names of folders in {str(root)!r}, not paths such as {outside[0]!r}."
        )
        raise ValueError(msg)
    missing = [category for category in categories if not (root / category).is_dir()]
    if missing:
        there = sorted(path.name for path in root.iterdir() if path.is_dir())
        msg = f"The categories {missing} of the data set {name!r} are not in {str(root)!r}, which has {there}."
        raise ValueError(msg)


def build_datamodule(spec: DataSpec, category: str | None) -> AnomalibDataModule:
    """The data module of a category, or of the only one."""
    kind = find_class(spec.class_path, AnomalibDataModule, "datasets")
    has_categories = category is not None and "category" in inspect.signature(kind).parameters
    extra = {"category": category} if has_categories else {}
    return instantiate(AnomalibDataModule, spec.class_path, {**spec.init_args, **extra})


def show_only(datamodule: AnomalibDataModule, references: Sequence[str]) -> None:
    """Leave just the references in the training data, and let validation be over all test images."""
    if references:
        samples = datamodule.train_data.samples
        chosen = samples.image_path.astype(str).isin(references) & (samples.label_index == LabelName.NORMAL)
        datamodule.train_data.samples = samples[chosen].reset_index(drop=True)
    datamodule.val_data = datamodule.test_data


def set_up(datamodule: AnomalibDataModule) -> None:
    """Read the lists of images, once: the trainer does not read them again."""
    datamodule.setup(TrainerFn.FITTING)
