# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Models, prepared so that all are compared on the same references and on raw scores."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.models import WinClip
from anomalib.models.components import AnomalibModule
from packaging.version import Version

from anomalib_aprilgan.comparison import backbones  # noqa: F401  registers an architecture that configurations may name
from anomalib_aprilgan.comparison.classes import find_class, instantiate
from anomalib_aprilgan.comparison.fingerprints import argument_fingerprints
from anomalib_aprilgan.comparison.grid import POOL, Grid, ModelSpec, Shots
from anomalib_aprilgan.data.references import read_references, resolve_class_name
from anomalib_aprilgan.lightning_model import AprilGan
from anomalib_aprilgan.target import RUN
from anomalib_aprilgan.torch_model import AprilGanModel

# From this release on, open_clip's transformer expects the batch first, which anomalib's WinClip gives second.
BREAKS_WINCLIP = Version("2.26.1")
CLIPS_PER_WORKER = 2  # that of AprilGan and that of WinClip
# With these, a validation may see other images than a prediction, so that score bounds need a pass of their own.
PARTIAL_PASSES = {"fast_dev_run", "limit_predict_batches", "limit_val_batches", "overfit_batches"}
HARMLESS = {"_abc_impl", "configure_pre_processor"}


def takes_references(kind: type) -> bool:
    """Whether the model is given its references by ``k_shot``, which may be 0, and not by training."""
    return issubclass(kind, AprilGan) or "k_shot" in inspect.signature(kind).parameters


def is_april_gan(spec: ModelSpec, name: str) -> bool:
    """Whether the model is an AprilGan.

    Raises:
        ValueError: If the class of the model is not found.
    """
    return issubclass(find_class(spec.class_path, AnomalibModule, f"models.{name}"), AprilGan)


def can_be_swept(model: AprilGan, trainer: Mapping[str, Any]) -> bool:
    """Whether runs of the model may share a pass over the test images: if it predicts as AprilGan does, untrained.

    A pool has passes of its own.

    Args:
        model: An AprilGan, or of a class that is derived from it.
        trainer: Arguments of Lightning's Trainer.
    """
    changed = _changed(type(model), AprilGan) | _changed(type(model.model), AprilGanModel)
    alone = model.uses_pool or model.adapters is None or PARTIAL_PASSES & trainer.keys()
    return not (changed or alone)


def _changed(kind: type, base: type) -> set[str]:
    """What a derived class does otherwise than its base."""
    derived = kind.__mro__[: kind.__mro__.index(base)]
    names = {name for each in derived for name in vars(each) if hasattr(base, name) and not name.startswith("__")}
    return names - HARMLESS


def possible_shots(spec: ModelSpec, shots: Sequence[Shots], name: str) -> list[int]:
    """Return those numbers of references that a model is run with; POOL, if it is asked for and possible, comes first.

    Args:
        spec: The model; its ``shots`` are a further limit.
        shots: Those of the grid. A model that takes no references is trained on at least one, unless its own ``shots``
            are [0]: then it is one that is never trained.
        name: Of the model, for error messages.

    Raises:
        ValueError: If the class of the model is not found.
    """
    kind = find_class(spec.class_path, AnomalibModule, f"models.{name}")
    least = 0 if takes_references(kind) or spec.shots == [0] else 1
    wanted = [k for k in shots if spec.shots is None or k in spec.shots]
    pool = [POOL] if "pool" in wanted and issubclass(kind, AprilGan) else []
    return pool + [k for k in wanted if k != "pool" and k >= least]


def build_model(grid: Grid, name: str, dataset: str, references: Sequence[str], category: str) -> Any:
    """Return a model without evaluation, visualization and normalisation; it knows its references if it takes any.

    Args:
        grid: The comparison.
        name: Of the model.
        dataset: Name of the data set.
        references: Paths of the reference images.
        category: Of the data set.

    Raises:
        RuntimeError: If it is WinClip and the installed open_clip breaks it.
        ValueError: If its class is not found or an argument does not fit.
    """
    spec = grid.models[name]
    kind = find_class(spec.class_path, AnomalibModule, f"models.{name}")
    if issubclass(kind, WinClip):
        check_winclip(metadata.version("open_clip_torch"))
    if not takes_references(kind):
        return _build(spec.class_path, spec.init_args)
    if issubclass(kind, AprilGan):
        own = {name: value for name, value in spec.init_args.items() if name not in {"k_shot", "few_shot_source"}}
        model = _build_shared(spec.class_path, own, dataset)  # `set_target` gives it the references
    elif issubclass(kind, WinClip):
        model = _build_shared(spec.class_path, spec.init_args, dataset)
        _set_up_winclip(model, spec.init_args.get("class_name") or category, references)
    else:  # it collects them from the training data, which are just these
        model = _build(spec.class_path, {**spec.init_args, "k_shot": len(references)})
    return model


def check_winclip(version: str) -> None:
    """Refuse to run WinClip with an open_clip that breaks it.

    Raises:
        RuntimeError: If the version of open_clip is 2.26.1 or later.
    """
    if Version(version) >= BREAKS_WINCLIP:
        msg = (
            f"WinClip is refused with open_clip {version}: from 2.26.1 on all window embeddings of an image come out "
            "equal in anomalib's WinClip, and its scores are wrong. Install open_clip_torch 2.24.0 to compare with it."
        )
        raise RuntimeError(msg)


def _build(class_path: str, init_args: dict[str, Any]) -> Any:
    plain = {"post_processor": False, "evaluator": False, "visualizer": False}
    return instantiate(AnomalibModule, class_path, {**init_args, **plain})


def _build_shared(class_path: str, init_args: dict[str, Any], dataset: str) -> Any:
    """A model that all its runs of this process share, so that CLIP is read once; each run sets it up anew.

    The data set matters because ``adapters="auto"`` depends on it, and so do the contents of the files that are named.
    """
    return _build_once(class_path, json.dumps(init_args), f"{dataset} {argument_fingerprints(init_args)}")


@lru_cache(maxsize=CLIPS_PER_WORKER)
def _build_once(class_path: str, init_args: str, _key: str) -> Any:
    return _build(class_path, json.loads(init_args))


def set_target(
    model: AprilGan, datamodule: AnomalibDataModule, references: Sequence[str], device: torch.device
) -> None:
    """Set class name and references of an AprilGan that several runs share, by hand, so that the run keeps them.

    Args:
        model: Made by ``build_model``.
        datamodule: Of the run; its category is the class name if the model has no other.
        references: Paths of the reference images.
        device: On which they are encoded.
    """
    class_name = resolve_class_name(model.request, datamodule, None, RUN)
    images = read_references(references, model.reference_transform) if references else None
    model.to(device).model.setup(class_name, images)


def _set_up_winclip(model: Any, class_name: str, references: Sequence[str]) -> None:
    """Give WinClip its class name and references without its own hooks.

    WinClip would take training images without normalising them, and its ``few_shot_source`` asks the pre-processor for
    an attribute that anomalib 2.7 does not have.
    """
    model.model.reference_images, model.model.k_shot = None, 0
    images = read_references(references, model.pre_processor.transform) if references else None
    model.model.setup(class_name, images)
    model.class_name, model.k_shot, model.is_setup = class_name, len(references), True
