# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which normal images a few-shot model sees, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from anomalib.data.utils.download import generate_hash
from torch import Tensor
from torchvision.tv_tensors import Image

from anomalib_aprilgan.data.augmentations import augmentations
from anomalib_aprilgan.data.images import check_header, read_rgb
from anomalib_aprilgan.data.listing import NAMED_FILES, image_files, is_hidden
from anomalib_aprilgan.target import CHANGED, RUN, References, TargetRequest

# Words in the names of folders. A folder beside one of normal images holds others, whatever its name is.
NORMAL = re.compile(r"(?<![a-z])(good|normal|ok|train)(?![a-z])")
OTHER = re.compile(
    r"(?<![a-z])(abnormal|anomal(y|ies|ous)|bad|broken|cracks?|damaged?|defect(s|ive)?|faulty|g(round)?_?t(ruth)?|ko|"
    r"labels?|masks?|n(o|ot|on)?[ _-]?(g|good|normal|ok)|rejects?|scrap|scratch(es)?|segmentation)(?![a-z])"
)
MASK_ENDING = re.compile(r"[_-](mask|label|gt)$", re.IGNORECASE)

ANYTHING = "object"  # its word in the prompts


def resolve_references(
    request: TargetRequest, datamodule: AnomalibDataModule | None, known: References | None = None
) -> References:
    """The reference images that the arguments ask for.

    Args:
        request: The arguments.
        datamodule: One that is set up, or None.
        known: Those that the model has. They are kept where nothing else is named, or ``aprilgan references`` set them;
            a checkpoint's also where the same arguments named them and their files are not there any more.

    Raises:
        ValueError: If there are too few images, no place to take them from, or a file can't be read.
    """
    if known is not None and known.source == CHANGED:
        return known
    if not request.k_shot:
        return References()
    if known is not None and are_asked_for(known, request, datamodule):
        return known
    paths = choose_references(request.k_shot, request.source, datamodule, request.seed, request.with_replacement)
    return References(
        digests=tuple(contents(paths)),
        coreset_sampling_ratio=request.coreset_sampling_ratio,
        banks=request.banks,
        paths=tuple(paths),
        source=_as_text(request.source),
        with_replacement=request.with_replacement,
        seed=request.seed,
        added=(now(),) * len(paths),
    )


def now() -> str:
    """The time in ISO 8601, to the second, with the time zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def resolve_class_name(
    request: TargetRequest, datamodule: AnomalibDataModule | None, known: str | None, origin: str
) -> str:
    """The argument, else what the data module calls its objects, else the known name if it was given, else "object".

    Args:
        request: The arguments.
        datamodule: Of the run, or None.
        known: The class name that the model has.
        origin: Of the model's target.
    """
    given = None if origin == RUN else known
    of_data = getattr(datamodule, "class_name", None) or getattr(datamodule, "category", None)
    return request.class_name or of_data or given or ANYTHING


def are_asked_for(known: References, request: TargetRequest, datamodule: AnomalibDataModule | None) -> bool:
    """Whether the known references stand for what can't be, or need not be, looked up again."""
    if request.source is None and len(known.paths) == request.k_shot and (datamodule is None or known.source):
        return True
    same = known.draw == request.draw and known.source == _as_text(request.source)
    return same and not (known.digests and all(Path(path).is_file() for path in known.paths))


def _as_text(source: Any) -> str | None:
    return None if source is None else str(source)


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

    Args:
        candidates: Paths of normal images.
        k_shot: Number of images to draw.
        seed: Of the draw.
        with_replacement: Whether an image may be drawn again.

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
    normal = [str(path) for path in samples.image_path[samples.label_index == LabelName.NORMAL]]
    return [path for path in normal if not is_hidden(path, getattr(source, "root", None) or Path(path).parents[1])]


def folder_images(folder: str | Path, name: str = "`few_shot_source`") -> list[str]:
    """Paths of all images in and below a folder, or of the one image.

    Args:
        folder: Or file.
        name: What errors call it.

    Raises:
        ValueError: If there is no such folder, no image in it, or folders of other than normal images in it.
    """
    try:
        images = image_files(folder)
    except (FileNotFoundError, ValueError) as error:
        msg = f"{name} {str(folder)!r} holds no images: {error} Give a folder or a list of normal images."
        raise ValueError(msg) from error
    others = _defects_and_masks(images, Path(folder).resolve()) if Path(folder).is_dir() else []
    if others:
        msg = (
            f"{name} {str(folder)!r} seems to hold defects or masks: {', '.join(others[:NAMED_FILES])}. "
            "Give the folder in it that holds the normal images alone, or a list of normal images."
        )
        raise ValueError(msg)
    return [str(path) for path in images]


def _defects_and_masks(images: Sequence[Path], root: Path) -> list[str]:
    """The folders below ``root`` that may hold other than normal images, by their names; masks beside their images."""
    below = [path.parent.relative_to(root) for path in images if path.is_relative_to(root)]
    folders = {Path(*folder.parts[: depth + 1]) for folder in below for depth in range(len(folder.parts))}
    told = {folder for folder in folders if OTHER.search(folder.name.lower())}
    normal = {folder for folder in folders - told if NORMAL.search(folder.name.lower())}
    beside = {folder.parent for folder in normal}
    others = told | {folder for folder in folders - normal if folder.parent in beside}
    stems = {str(path.with_suffix("")) for path in images}
    masks = [stem for stem in stems if MASK_ENDING.search(stem) and MASK_ENDING.sub("", stem) in stems]
    return [*map(str, sorted(others)), *sorted(Path(stem).name for stem in masks)]


def read_references(paths: Sequence[str | Path], transform: Callable[[Tensor], Tensor]) -> Tensor:
    """The images (K, 3, H, W), transformed as the model's pre-processor does.

    Raises:
        ValueError: If a file can't be read as an image.
    """
    return torch.stack([transform(Image(read_rgb(path))) for path in paths])


def reference_images(references: References, transform: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The images (K, 3, H, W) of references with files, transformed as the model's pre-processor does; None: no files.

    Raises:
        ValueError: If a file can't be read as an image.
    """
    return read_references(references.paths, transform) if references.paths else None


def contents(paths: Sequence[str | Path]) -> list[str]:
    """The hashes of the files, equal for copies of one image under several names.

    Raises:
        ValueError: If a file can't be read as an image.
    """
    for path in dict.fromkeys(paths):
        try:
            check_header(path)  # a pipe would never end
        except ValueError as error:
            msg = f"The image {error} Correct the path of references or pool."
            raise ValueError(msg) from error
    return [generate_hash(Path(path)) for path in paths]


def read_augmentations(path: str | Path, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Augmentations (V, 3, H, W) of a reference image, which stand for further normal images, transformed like it."""
    return torch.stack([transform(Image(view)) for view in augmentations(read_rgb(path))])
