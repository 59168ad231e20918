# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults of anomalib, all seen in 2.7.0."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anomalib.metrics
import pandas as pd
from anomalib.data import PredictDataset
from anomalib.utils.path import generate_output_filename
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
THIRTY_TWO_BITS = ("I", "F")
ON_ITS_SIDE = (5, 6, 7, 8)


def orientation(image: Image.Image) -> int:
    """EXIF's number for the rotation of an image, from 1 (none) to 8."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def is_misread(image: Image.Image) -> bool:
    """Whether anomalib changes an image when it reads it.

    ``anomalib.data.utils.read_image`` converts every image to RGB with Pillow. This makes levels above 255 white
    (https://github.com/open-edge-platform/anomalib/issues/1218) and ignores the rotation in EXIF data.
    """
    return image.mode in {*SIXTEEN_BITS, *THIRTY_TWO_BITS} or orientation(image) != 1


def restore_misread(batch: Any, read: Callable[[str], Tensor]) -> None:
    """Replace the images of a batch that anomalib has misread; see ``is_misread``.

    Raises:
        ValueError: If an image can't be read, or its EXIF data turn it but not its mask.
    """
    for index, path in enumerate(batch.image_path or []):
        with Image.open(path) as stored:
            if not is_misread(stored):
                continue
            turned = orientation(stored) in ON_ITS_SIDE
        image = read(path).to(batch.image)
        if turned:
            _check_mask(path, batch, index, image)
        if len(batch.image) == 1:
            batch.image = image.unsqueeze(0)
        else:
            batch.image[index] = resize(image, list(batch.image.shape[-2:]), antialias=True)


def _check_mask(path: str, batch: Any, index: int, image: Tensor) -> None:
    height, width = image.shape[-2:]
    marked = batch.gt_mask is not None and batch.gt_mask[index].any()
    if marked and height != width and batch.gt_mask.shape[-2:] == (width, height):
        msg = (
            f"{path!r} is to be turned by its EXIF data to {width} x {height} pixels, but its mask has {height} x "
            f"{width}: turn the mask too, or remove the EXIF data."
        )
        raise ValueError(msg)


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
    names = (getattr(datamodule, "name", None), getattr(datamodule, "category", None))
    paths = {image: generate_output_filename(image, folder, *names) for image in images}
    if datamodule is not None and len(set(paths.values())) == len(paths):
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
