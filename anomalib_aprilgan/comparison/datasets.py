# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Data modules of a comparison, and the categories that they have on disk."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName

from anomalib_aprilgan.comparison.classes import find_class, instantiate
from anomalib_aprilgan.comparison.grid import DataSpec
from anomalib_aprilgan.data.auxiliary import category_names
from anomalib_aprilgan.data.demo import DemoDataModule
from anomalib_aprilgan.data.images import anomalib_misreads
from anomalib_aprilgan.data.listing import take_over_listing
from anomalib_aprilgan.data.masks import check_datamodule

logger = logging.getLogger(__name__)


def prepare_categories(spec: DataSpec, name: str) -> list[str]:
    """The categories of a data set that is on disk; the demo data are made if they are not.

    Raises:
        FileNotFoundError: If the data set is not on disk.
        ValueError: If a category is not, or the list of categories is empty.
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
    categories = spec.categories or category_names(datamodule)
    for category in categories:
        _check_files(spec, name, category)
    return categories


def _check_files(spec: DataSpec, name: str, category: str) -> None:
    """Check that the lists of a category's images can be made and masks belong to their images, before long work."""
    datamodule = build_datamodule(spec, category)
    try:
        datamodule.setup()
        check_datamodule(datamodule)
        misread = [path for path in datamodule.test_data.samples.image_path if anomalib_misreads(path)]
    except (ValueError, TypeError, RuntimeError, FileNotFoundError, MisMatchError) as error:
        msg = (
            f"The category {category!r} of the data set {name!r} can't be used: {error} Correct its files, choose a "
            f"data module that reads them, or leave it out of `datasets.{name}.categories`."
        )
        raise ValueError(msg) from error
    if misread:
        logger.warning(
            "anomalib, through which all models but AprilGan read, changes %d images of the category %r of %r, such as "
            "%s: it ignores EXIF rotation and makes levels above 255 white. Convert them first.",
            len(misread),
            category,
            name,
            misread[0],
        )


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
    """The data module of a category; of the whole data set if its class knows no categories."""
    kind = find_class(spec.class_path, AnomalibDataModule, "datasets")
    take_over_listing()  # before the first AprilGan too, so that all runs have the same images
    has_categories = category is not None and "category" in inspect.signature(kind).parameters
    extra = {"category": category} if has_categories else {}
    return instantiate(AnomalibDataModule, spec.class_path, {**spec.init_args, **extra})


def keep_references(datamodule: AnomalibDataModule, references: Sequence[str]) -> None:
    """Leave only the references in the training data, and validate on all test images."""
    if references:
        samples = datamodule.train_data.samples
        chosen = samples.image_path.astype(str).isin(references) & (samples.label_index == LabelName.NORMAL)
        datamodule.train_data.samples = samples[chosen].reset_index(drop=True)
    datamodule.val_data = datamodule.test_data
