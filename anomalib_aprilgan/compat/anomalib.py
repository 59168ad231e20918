# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults of anomalib, all seen in 2.7.0."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anomalib.data.datasets.image.folder
import anomalib.data.predict
import anomalib.data.utils.path
import anomalib.metrics
import pandas as pd
import torch
from anomalib.data import ImageItem, PredictDataset
from anomalib.data.utils import DirType
from anomalib.utils.path import generate_output_filename
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL import ExifTags, Image
from torch import Tensor

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
THIRTY_TWO_BITS = ("I", "F")
ON_ITS_SIDE = (5, 6, 7, 8)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PATH_MAX = 4096  # bytes, on Linux


def orientation(image: Image.Image) -> int:
    """EXIF's number for the rotation of an image, from 1 (none) to 8."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def is_misread(image: Image.Image) -> bool:
    """Whether anomalib changes an image when it reads it.

    ``anomalib.data.utils.read_image`` converts every image to RGB with Pillow. This makes levels above 255 white
    (https://github.com/open-edge-platform/anomalib/issues/1218) and ignores the rotation in EXIF data.
    """
    return image.mode in {*SIXTEEN_BITS, *THIRTY_TWO_BITS} or orientation(image) != 1


def restore_misread(
    batch: Any, read_if_misread: Callable[[str], Tensor | None], resize: Callable[[Tensor], Tensor]
) -> None:
    """Replace the images of a batch that anomalib has misread; see ``is_misread``.

    Args:
        batch: Its images (B, 3, H, W) are changed.
        read_if_misread: Reads the image (3, H, W) of a file that anomalib misreads; None for others.
        resize: Brings each image (3, H, W) to the model's size, if they have several.

    Raises:
        ValueError: If an image can't be read, or its EXIF data turn it but not its mask.
    """
    read = [read_if_misread(path) for path in batch.image_path or []]
    for index, image in enumerate(read):
        if image is not None:
            _check_mask(batch.image_path[index], batch, index, image)
    if any(image is not None for image in read):
        images = [old if new is None else new.to(old) for old, new in zip(batch.image, read, strict=True)]
        same = len({image.shape for image in images}) == 1
        batch.image = torch.stack(images if same else [resize(image) for image in images])


def _check_mask(path: str, batch: Any, index: int, image: Tensor) -> None:
    height, width = image.shape[-2:]
    marked = batch.gt_mask is not None and batch.gt_mask[index].any()
    if marked and height != width and batch.gt_mask.shape[-2:] == (width, height):
        msg = (
            f"{path!r} is to be turned by its EXIF data to {width} x {height} pixels, but its mask has {height} x "
            f"{width}: turn the mask too, or remove the EXIF data."
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class CollateResized:
    """Joins items to a batch; those of different sizes are resized to the model's first, each alone.

    ``ImageBatch.collate`` brings them to the size of the largest, so that an image's score depends on what else is in
    its batch (https://github.com/open-edge-platform/anomalib/issues/2686). anomalib's data modules resize before.

    Args:
        collate: Of the loader.
        resize: Brings image and mask to the model's size.
    """

    collate: Callable[[list], Any]
    resize: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]

    def __call__(self, items: list) -> Any:
        """The batch of the items."""
        known = all(isinstance(item, ImageItem) for item in items)
        if known and len({(item.image.shape, getattr(item.gt_mask, "shape", None)) for item in items}) > 1:
            for item in items:
                item.image, item.gt_mask = self.resize(item.image, item.gt_mask)
        return self.collate(items)


def use_listing(image_files: Callable[[str | Path], list[Path]]) -> None:
    """Have ``PredictDataset`` and ``Folder`` list their files by a function of ours, and anomalib take all paths.

    ``Engine.predict`` makes its data set itself. anomalib's listing looks for nine suffixes, does not follow links to
    folders, counts hidden files and stops at a broken link. And anomalib refuses paths of more than 512 characters, and
    those with an umlaut as "non-printable".
    """

    def folder_files(path: Path, kind: str, extensions: Sequence[str] | None = None) -> tuple[list[Path], list[str]]:
        wanted = {suffix.lower() for suffix in extensions or ()}
        files = [file for file in image_files(path) if extensions is None or file.suffix.lower() in wanted]
        if not files:
            msg = f"Found 0 images in {str(path)!r} with extensions {extensions}."
            raise ValueError(msg)
        odd = [
            file
            for file in path.rglob("[!.]*")
            if file.suffix == files[0].suffix and not (file.is_file() or file.is_dir())
        ]
        if odd and kind in {DirType.ABNORMAL, DirType.MASK}:
            msg = f"{str(odd[0])!r} is a broken link, pipe or device: remove it, and its image or mask."
            raise ValueError(msg)
        return files, [kind] * len(files)

    vars(anomalib.data.predict)["get_image_filenames"] = image_files
    vars(anomalib.data.datasets.image.folder)["_prepare_files_labels"] = folder_files
    paths = vars(anomalib.data.utils.path)
    paths["contains_non_printable_characters"] = lambda path: bool(CONTROL.search(str(path)))
    paths["is_path_too_long"] = lambda path: len(os.fsencode(path)) >= PATH_MAX


def change_class(dataset: PredictDataset, wanted: type[PredictDataset]) -> None:
    """Make a data set of images to predict an instance of a subclass.

    ``Engine.predict`` makes the data set of a path itself. It accepts no other reader, and stops at the first file
    that is no image.
    """
    dataset.__class__ = wanted


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def output_paths(images: Sequence[Path], folder: Path, datamodule: Any) -> dict[Path, Path]:
    """Where to save the visualization of each image of a run: where anomalib does, unless two would meet there.

    ``generate_output_filename`` keeps only the last folder of a path. Images of the same name in a/left and b/left
    then overwrite each other: all images keep the folders below the one that they share.

    Args:
        images: All images of the run.
        folder: Folder of all visualizations.
        datamodule: Of the run; None: the images are those at a path, whose folders are always kept.
    """
    if datamodule is not None:
        names = (getattr(datamodule, "name", None), getattr(datamodule, "category", None))
        paths = {image: generate_output_filename(image, folder, *names) for image in images}  # makes folders
        if len(set(paths.values())) == len(paths):
            return paths
    shared = common_folder(images).parent
    return {image: folder / image.absolute().relative_to(shared) for image in images}


def image_metrics(scores: Tensor, labels: Tensor) -> dict[str, Tensor] | None:
    """Anomalib's AUROC, F1Max and AUPR; None if all images are normal or all are abnormal.

    anomalib returns numbers such as 0 where a metric is not defined. And ``F1Max.reset`` forgets its curve but not its
    result, so that the metrics are made anew here for each result.

    Args:
        scores: Image scores (B,).
        labels: 1 where abnormal, else 0 (B,).
    """
    if not labels.any() or labels.all():
        return None
    values = {}
    for name in ("AUROC", "F1Max", "AUPR"):
        metric = getattr(anomalib.metrics, name)(fields=["pred_score", "gt_label"])
        metric.update(SimpleNamespace(pred_score=scores, gt_label=labels))
        values[name] = metric.compute()
    return values


def category_folders(root: Path) -> list[str]:
    """The categories of a data set that have test images.

    anomalib's Visa makes empty folders for categories that are not on disk. Hidden folders are no categories.
    """
    return sorted(path.name for path in root.glob("[!.]*") if any(path.glob("test/*/*")))


@rank_zero_only  # as anomalib's own preparation
def check_category(datamodule: Any) -> None:
    """Check that the category of a data module is on disk, or that nothing is there yet and it may be downloaded.

    anomalib downloads the whole data set beside the one that is there if a category's name is misspelt.

    Raises:
        ValueError: If the folder of the data set has other categories only.
    """
    checked = getattr(datamodule, "target", datamodule)  # of an AuxiliaryDataModule
    modules: Any = [sys.modules.get(kind.__module__) for kind in type(checked).__mro__]
    home = next((module for module in modules if hasattr(module, "download_and_extract")), None)
    if home is None:
        return
    download = home.download_and_extract

    def refuse(*arguments: Any) -> None:
        root = Path(checked.root)
        found = [path.name for path in sorted(root.glob("[!.]*")) if path.is_dir()]
        if not found:
            download(*arguments)
            return
        msg = (
            f"The category {checked.category!r} is not in {str(root)!r}, which has {found}: correct `category` or "
            "`root`. The data set is downloaded only where there is none yet."
        )
        raise ValueError(msg)

    home.download_and_extract = refuse
    try:
        checked.prepare_data()
    finally:
        home.download_and_extract = download


def plain(value: Any) -> Any:
    """A list or dictionary of OmegaConf as Python's own; anything else as it is.

    ``get_model`` passes OmegaConf's containers on, which a checkpoint can't hold.
    """
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def collect_all(results: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of a benchmark's runs; a metric that a run lacks is empty there.

    ``BenchmarkJob.collect`` raises KeyError or ValueError, after all runs, if they differ in their metrics: models with
    others, or data with and without masks.
    """
    return pd.DataFrame(results)
