# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for anomalib's tiled ensembles, which give each model one tile of every image; seen in 2.7.0."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor

from anomalib_aprilgan.compat.anomalib import CollateResized, plain
from anomalib_aprilgan.compat.lightning import current_datamodule, current_loader

View = Callable[[Tensor], Tensor]
Reader = Callable[[str], Tensor | None]


def accepting_objects(get_model: Callable[..., Any]) -> Callable[..., Any]:
    """The get_model of anomalib, for a configuration with ``init_args`` beside which objects are given.

    It puts them all into one container of OmegaConf, which refuses the pre-processor that each tile's model is given.
    An AprilGan makes its own, with the mean and the standard deviation of its weights.
    """

    @wraps(get_model)
    def get_model_with_objects(model: DictConfig | dict[str, Any], **objects: Any) -> Any:
        rest = {name: plain(value) for name, value in model.items() if name != "init_args"}
        if rest["class_path"].endswith("AprilGan"):
            objects.pop("pre_processor", None)
        return get_model(rest, **(plain(model.get("init_args")) or {}), **objects)

    return get_model_with_objects


def views(module: LightningModule) -> list[View]:
    """What the data module of a tile does to a whole image before the model; nothing where images are not cut."""
    datamodule = current_datamodule(module)
    cut = _cut(getattr(datamodule, "external_collate_fn", None))
    return [] if cut is None else [datamodule.test_augmentations, cut]


def reader(read: Reader, trainer: Trainer, dataloader_idx: int = 0) -> Reader:
    """A function that reads what the batches of the current loader hold of an image: all of it, or a tile.

    Args:
        read: Reads a whole image (3, H, W) from its path, or gives None.
        trainer: Of the run.
        dataloader_idx: Number of the data loader, from 0.
    """
    loader = current_loader(trainer, dataloader_idx)
    cut = _cut(getattr(loader, "collate_fn", None))

    def read_tile(path: str) -> Tensor | None:
        image = read(path)
        return None if image is None or cut is None else cut(loader.dataset.augmentations(image))

    return read if cut is None else read_tile


def keep_target(module: Any) -> bool:
    """Whether a model predicts tiles for the target it has: its training alone is given the data module."""
    trainer = module._trainer  # noqa: SLF001  # the public property raises where there is none
    if trainer is None or module.model.class_name is None or current_datamodule(module) is not None:
        return False
    return index(trainer) is not None


def index(trainer: Trainer) -> tuple[int, int] | None:
    """Row and column of the tile that the current loader cuts out of each image; None: it gives whole images."""
    return getattr(_unwrapped(getattr(current_loader(trainer), "collate_fn", None)), "tile_index", None)


def _cut(collate: Any) -> View | None:
    """How a TileCollater cuts an image (3, H, W); None: it is none."""
    collate = _unwrapped(collate)
    if not hasattr(collate, "tile_index"):
        return None
    return lambda image: collate.tiler.tile(image.unsqueeze(0))[collate.tile_index][0]


def _unwrapped(collate: Any) -> Any:
    """The collate function that a CollateResized calls, or the function itself."""
    return collate.collate if isinstance(collate, CollateResized) else collate
