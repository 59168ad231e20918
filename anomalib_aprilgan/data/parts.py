# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A user's own parts: folders in MVTec AD's layout with images of any format, with or without masks."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode

from anomalib_aprilgan.compat.anomalib import category_folders
from anomalib_aprilgan.data.listing import image_files, named

logger = logging.getLogger(__name__)

GOOD = "good"
COLUMNS = ["split", "label", "image_path", "mask_path"]


class TableDataset(AnomalibDataset):
    """Images of one split of a table of samples with the columns COLUMNS."""

    def __init__(self, table: pd.DataFrame, split: str, task: str) -> None:
        super().__init__()
        samples = table[table.split == split].copy()
        samples["label_index"] = [LabelName.NORMAL if label == GOOD else LabelName.ABNORMAL for label in samples.label]
        samples.attrs["task"] = task
        self.samples = samples


class TableDataModule(AnomalibDataModule):
    """A data module whose images a table lists; it validates on the test images.

    Args:
        category: Name of the kind of part.
        train_batch_size: Images per batch in training.
        eval_batch_size: Images per batch in validation and testing.
        num_workers: Processes that load images.
        val_split_mode: Where validation images come from, as in anomalib.
        val_split_ratio: Fraction of the test or training images for it.
        seed: Of this split.
    """

    def __init__(
        self,
        category: str,
        train_batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size,
            eval_batch_size,
            num_workers,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            seed=seed,
        )
        self.category = category

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """All images of the category with the columns COLUMNS; a mask's path is "" where there is none."""

    def _setup(self, _stage: str | None = None) -> None:
        table = self.table()
        defective = table[(table.split == "test") & (table.label != GOOD)]
        task = "segmentation" if (defective.mask_path != "").any() else "classification"
        self.train_data, self.test_data = (TableDataset(table, split, task) for split in ("train", "test"))


class PartsDataModule(TableDataModule):
    """Own parts in MVTec AD's layout, with what ``MVTecAD`` does not take: any image format, no masks.

    ``root/category/train/good`` holds normal images, ``test/good`` and ``test/DEFECT`` test images,
    ``ground_truth/DEFECT`` masks, named like their image or with ``_mask`` behind the name. Suffixes may differ, in
    any case. Without ``ground_truth`` only image metrics are defined.

    Args:
        root: Folder of all categories, or of the only one.
        category: Folder of the kind of part. None: the first, or ``root`` itself if it holds ``train`` or ``test``.
        train_batch_size: Images per batch in training.
        eval_batch_size: Images per batch in validation and testing.
        num_workers: Processes that load images.
        val_split_mode: Where validation images come from, as in anomalib.
        val_split_ratio: Fraction of the test or training images for it.
        seed: Of this split.

    Raises:
        FileNotFoundError: If the folder, the category or its test images do not exist.
        ValueError: If a defective image lacks the mask that others have, or two masks or images share a name.

    Example:
        >>> from anomalib_aprilgan import PartsDataModule
        >>> data = PartsDataModule("parts", "bolt")
        >>> data.setup()
        >>> len(data.train_data), len(data.test_data)
        (4, 9)
    """

    def __init__(
        self,
        root: Path | str,
        category: str | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        self.root, category = _locate(Path(root), category)
        super().__init__(
            category, train_batch_size, eval_batch_size, num_workers, val_split_mode, val_split_ratio, seed
        )

    def table(self) -> pd.DataFrame:
        """All images of the category with their masks."""
        folder = (self.root / self.category).resolve()
        train, test = (_images(folder / split) for split in ("train", "test"))
        if not test:
            msg = f"{str(folder / 'test')!r} has no images: put normal ones into its folder 'good', others beside it."
            raise FileNotFoundError(msg)
        masks = _masks(folder / "ground_truth")
        rows = [("train", label, str(path), "") for (label, *_), path in train.items() if label == GOOD]
        rows += [("test", key[0], str(path), masks.get(key, "")) for key, path in test.items()]
        table = pd.DataFrame(rows, columns=COLUMNS)
        _check_masks(table, folder)
        return table


def _locate(root: Path, category: str | None) -> tuple[Path, str]:
    """The folder of all categories, and the category."""
    if not root.is_dir():
        msg = f"`root` {str(root)!r} is not a folder: give the one that holds your parts, in MVTec AD's layout."
        raise FileNotFoundError(msg)
    if category is None and any((root / split).is_dir() for split in ("train", "test")):
        return root.resolve().parent, root.resolve().name
    there = category_folders(root)
    if category is None and there:
        return root, there[0]
    if category is None or not (root / category).is_dir():
        msg = f"`category` {category!r} is not a folder with test images in {str(root)!r}, which has {there}."
        raise FileNotFoundError(msg)
    return root, category


def _images(folder: Path) -> dict[tuple[str, ...], Path]:
    """The images in the folders of a split, by these folders' names and their own without suffix."""
    found: dict[tuple[str, ...], Path] = {}
    for path in image_files(folder) if folder.is_dir() and any(folder.iterdir()) else []:
        *folders, _ = path.relative_to(folder).parts
        key = (*folders, path.stem)
        if not folders or key in found:
            wrong = f"it has the name of {str(found[key])!r}" if folders else "it is in no folder"
            msg = f"{str(path)!r} can't be used: {wrong}. Images lie in {GOOD!r} or in a folder for their defect."
            raise ValueError(msg)
        found[key] = path
    return found


def _masks(folder: Path) -> dict[tuple[str, ...], str]:
    masks: dict[tuple[str, ...], str] = {}
    for (*folders, name), path in _images(folder).items():
        key = (*folders, name.removesuffix("_mask"))
        if key in masks:
            msg = f"There are two masks of one name in {str(folder)!r}, {masks[key]!r} and {str(path)!r}: keep one."
            raise ValueError(msg)
        masks[key] = str(path)
    return masks


def _check_masks(table: pd.DataFrame, folder: Path) -> None:
    defective = table[(table.split == "test") & (table.label != GOOD)]
    without = defective.image_path[defective.mask_path == ""]
    if 0 < len(without) < len(defective):
        msg = (
            f"{len(without)} of {len(defective)} defective images have no mask in {str(folder / 'ground_truth')!r}: "
            f"{named(without)}. Add them (NAME.png or NAME_mask.png), or move the folder away to test without masks."
        )
        raise ValueError(msg)
