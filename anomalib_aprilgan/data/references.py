# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which normal images a few-shot model sees, and their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName, get_image_filenames
from anomalib.data.utils.download import generate_hash
from torch import Tensor
from torchvision.tv_tensors import Image

from anomalib_aprilgan.data.augmentations import views
from anomalib_aprilgan.data.images import read_rgb


def choose_references(
    k_shot: int,
    source: str | Path | list[str] | None,
    datamodule: AnomalibDataModule | None,
    seed: int,
    with_replacement: bool = False,
) -> list[str]:
    """Paths of the ``k_shot`` reference images.

    Args:
        k_shot: Their number.
        source: Folder to draw from, or the list of exactly these images. None: the data module's normal images.
        datamodule: One that is set up, or None.
        seed: Of the draw.
        with_replacement: Whether an image may be drawn again.

    Raises:
        ValueError: If there are too few images, or no place to take them from.
    """
    if not k_shot:
        return []
    if isinstance(source, list):
        if len(source) != k_shot:
            msg = f"`few_shot_source` lists {len(source)} images, but `k_shot` is {k_shot}."
            raise ValueError(msg)
        return [str(path) for path in source]
    if source is not None:
        candidates = folder_images(source)
    elif datamodule is not None:
        candidates = normal_train_images(datamodule)
    else:
        msg = (
            f"`k_shot` is {k_shot}, but there are no reference images: give `few_shot_source` (a folder or a list of "
            "normal images), a data module, or a checkpoint made with references."
        )
        raise ValueError(msg)
    return draw_references(candidates, k_shot, seed, with_replacement)


def draw_references(candidates: Sequence[str], k_shot: int, seed: int, with_replacement: bool = False) -> list[str]:
    """``k_shot`` paths drawn from the sorted candidates, the same for the same seed.

    Differs: the authors draw with replacement, so that their k images may be fewer.

    Raises:
        ValueError: If there are fewer candidates than images to draw.
    """
    available = len(candidates)
    if available == 0 or (k_shot > available and not with_replacement):
        msg = (
            f"`k_shot` {k_shot} is larger than the number of normal reference images, {available}. "
            "Lower `k_shot`, add images or set `with_replacement`."
        )
        raise ValueError(msg)
    chosen = np.random.default_rng(seed).choice(available, size=k_shot, replace=with_replacement)
    return [sorted(candidates)[index] for index in chosen]


def normal_train_images(datamodule: AnomalibDataModule) -> list[str]:
    """Paths of the normal training images of a data module that is set up, or of its target.

    Raises:
        ValueError: If it is an AuxiliaryDataModule without a target.
    """
    source = getattr(datamodule, "target", datamodule)
    if source is None:
        msg = "`k_shot` needs normal images of the target: give the data module a `target`, or use `few_shot_source`."
        raise ValueError(msg)
    samples = source.train_data.samples
    return [str(path) for path in samples.image_path[samples.label_index == LabelName.NORMAL]]


def folder_images(folder: str | Path) -> list[str]:
    """Paths of all images in and below a folder, or of the one image.

    Raises:
        ValueError: If there is no such folder or no image in it.
    """
    if not Path(folder).exists():
        msg = f"`few_shot_source` {str(folder)!r} does not exist. Give a folder or a list of normal images."
        raise ValueError(msg)
    try:
        return [str(path) for path in get_image_filenames(folder)]
    except ValueError as error:
        msg = f"`few_shot_source` {str(folder)!r} holds no images: {error}"
        raise ValueError(msg) from error


def read_references(paths: Sequence[str | Path], transform: Callable[[Tensor], Tensor]) -> Tensor:
    """The images (K, 3, H, W), transformed as the model's pre-processor does.

    Raises:
        ValueError: If a file can't be read as an image.
    """
    return torch.stack([transform(Image(read_rgb(path))) for path in paths])


def contents(paths: Sequence[str | Path]) -> list[str]:
    """The hashes of the files, equal for copies of one image under several names."""
    return [generate_hash(Path(path)) for path in paths]


def read_views(path: str | Path, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """The views (V, 3, H, W) of a reference image that stand for further normal images, transformed like it."""
    return torch.stack([transform(Image(view)) for view in views(read_rgb(path))])
