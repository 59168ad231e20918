# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Data modules of a comparison, and the categories that they have on disk."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName

from anomalib_aprilgan.comparison.classes import find_class, instantiate
from anomalib_aprilgan.comparison.fingerprints import CategoryFiles, category_files
from anomalib_aprilgan.comparison.grid import DataSpec, Job
from anomalib_aprilgan.comparison.progress import stage
from anomalib_aprilgan.data.auxiliary import category_names
from anomalib_aprilgan.data.demo import DemoDataModule
from anomalib_aprilgan.data.images import SUFFIXES, anomalib_misreads, unreadable
from anomalib_aprilgan.data.listing import is_hidden, take_over_listing
from anomalib_aprilgan.data.masks import check_datamodule

logger = logging.getLogger(__name__)


def prepare_categories(spec: DataSpec, name: str) -> dict[str, CategoryFiles]:
    """The categories of a data set that is on disk with their files; the demo data are made if they are not.

    Raises:
        FileNotFoundError: If the data set is not on disk.
        ValueError: If a category is not, or the list of categories is empty.
    """
    find_class(spec.class_path, AnomalibDataModule, f"datasets.{name}")
    datamodule: Any = build_datamodule(spec, None)
    check_root(datamodule, f"the data set {name!r}")
    if spec.categories == []:
        msg = f"`datasets.{name}.categories` is empty: name some, or leave it out to take all."
        raise ValueError(msg)
    wanted = spec.categories or category_names(datamodule)
    if datamodule.category and not isinstance(datamodule, DemoDataModule) and not hasattr(datamodule, "categories"):
        _check_categories(wanted, name, Path(datamodule.root))  # anomalib would download the whole data set
    stage(f"preparing {name}", 0, 1, "data sets")
    build_datamodule(spec, wanted[0]).prepare_data()
    categories = spec.categories or category_names(datamodule)
    files = {}
    for number, category in enumerate(categories):
        stage(f"checking the images of {name}/{category}", number, len(categories), "categories")
        files[category] = _checked_files(spec, name, category)
    stage(f"checking the images of {name}", len(categories), len(categories), "categories")
    return files


def check_root(datamodule: AnomalibDataModule, what: str) -> None:
    """Raise FileNotFoundError if there is no folder to read from, which anomalib would download or not find."""
    root = getattr(datamodule, "root", None)
    if root is not None and not Path(root).is_dir() and not isinstance(datamodule, DemoDataModule):
        msg = f"The `root` {str(root)!r} of {what} does not exist: download it first, or correct the path."
        raise FileNotFoundError(msg)


@contextmanager
def named_problems(what: str, remedy: str) -> Iterator[None]:
    """Say of which data a problem is, and what to do."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, FileNotFoundError, MisMatchError) as error:
        msg = f"{what} can't be used: {str(error).rstrip('. ')}. {remedy}"
        raise ValueError(msg) from error


def _checked_files(spec: DataSpec, name: str, category: str) -> CategoryFiles:
    """A category's files, whose lists can be made and whose masks belong to their images."""
    remedy = (
        "Correct or convert its files, choose a data module that reads them, such as anomalib.data.Folder, or leave it "
        f"out of `datasets.{name}.categories`."
    )
    with named_problems(f"The category {category!r} of the data set {name!r}", remedy):
        datamodule = build_datamodule(spec, category)
        _check_formats(datamodule)
        datamodule.setup()
        check_datamodule(datamodule)
        files = category_files(datamodule)
        _check_tested(files)
        _warn_of_misread(files, name, category)
    return files


def _warn_of_misread(files: CategoryFiles, name: str, category: str) -> None:
    misread = [image for _, image, _ in files.tested if anomalib_misreads(image)]
    if misread:
        logger.warning(
            "anomalib, through which all models but AprilGan read, changes %d images of the category %r of %r, such as "
            "%s: it ignores EXIF rotation and makes levels above 255 white. Convert them first.",
            len(misread),
            category,
            name,
            misread[0],
        )


def _check_formats(datamodule: AnomalibDataModule) -> None:
    """Check that the data module reads all images in the folders of its category, of which it would leave out some."""
    module = sys.modules.get(type(datamodule).__module__.replace(".datamodules.", ".datasets."))
    known = getattr(module, "IMG_EXTENSIONS", getattr(module, "EXTENSIONS", ()))
    folder = Path(getattr(datamodule, "root", None) or "", datamodule.category)
    if not (known and datamodule.category):
        return
    others = [
        path for path in sorted(folder.glob("*/**/*")) if path.suffix.lower() in SUFFIXES and path.suffix not in known
    ]
    others = [path for path in others if not is_hidden(path, folder)]
    if others:
        msg = (
            f"{type(datamodule).__name__} reads {', '.join(known)} and would leave out {len(others)} images, such as "
            f"{others[0]}."
        )
        raise ValueError(msg)


def _check_tested(files: CategoryFiles) -> None:
    """Check that there are normal and abnormal test images, and that those without masks can be read too."""
    labels = {label for label, _, _ in files.tested}
    if files.tested and labels != {LabelName.NORMAL, LabelName.ABNORMAL}:
        missing = "abnormal" if LabelName.NORMAL in labels else "normal"
        msg = f"It has no {missing} test images, and all metrics need normal and abnormal ones."
        raise ValueError(msg)
    _check_readable([image for _, image, mask in files.tested if not mask])  # those with masks have been read


def _check_readable(images: Sequence[str]) -> None:
    problems = unreadable(images)
    if problems:
        msg = f"{len(problems)} of its images can't be read. {next(iter(problems.values()))}"
        raise ValueError(msg)


def check_references(jobs: Iterable[Job], categories: Mapping[str, Mapping[str, CategoryFiles]]) -> None:
    """Check that there are images to draw references from, and that those which are drawn can be read.

    Args:
        jobs: Runs.
        categories: The files of each category of each data set.

    Raises:
        ValueError: If not, naming the category.
    """
    drawn: dict[tuple[str, str], set[str]] = {}
    for job in jobs:
        files = categories[job.dataset][job.category]
        if job.shots > 0 and files.tested:
            drawn.setdefault((job.dataset, job.category), set()).update(files.references(job.shots, job.seed))
    for (dataset, category), images in drawn.items():
        remedy = f"Correct its training images, or leave it out of `datasets.{dataset}.categories`."
        with named_problems(f"The category {category!r} of the data set {dataset!r}", remedy):
            if not categories[dataset][category].normal:
                msg = "It has no normal training images to draw references from"
                raise ValueError(msg)
            _check_readable(sorted(images))


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
    datamodule = instantiate(AnomalibDataModule, spec.class_path, {**spec.init_args, **extra})
    if datamodule.seed is None:
        datamodule.seed = 0  # images that are split at random: all runs get the same, whatever their own seed
    return datamodule


def keep_references(datamodule: AnomalibDataModule, references: Sequence[str]) -> None:
    """Leave only the references in the training data, and validate on all test images."""
    if references:
        samples = datamodule.train_data.samples
        chosen = samples.image_path.astype(str).isin(references) & (samples.label_index == LabelName.NORMAL)
        datamodule.train_data.samples = samples[chosen].reset_index(drop=True)
    datamodule.val_data = datamodule.test_data
