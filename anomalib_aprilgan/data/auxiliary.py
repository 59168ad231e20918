# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The auxiliary data set: the labelled images of other objects on which adapters are trained."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName, ValSplitMode, read_image, read_mask
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from anomalib_aprilgan.data.mosaic import mosaic


@dataclass
class CategoryItem(ImageItem):
    """An image with its category."""

    category: str = ""


@dataclass
class CategoryBatch(ImageBatch):
    """Images with a category each, a list of B names."""

    item_class: ClassVar[type[ImageItem]] = CategoryItem
    category: list[str] | None = None


class AuxiliaryDataset(AnomalibDataset):
    """Labelled images of several categories, some of them joined to mosaics.

    Args:
        samples: anomalib's table of samples with a column ``category``.
        mosaic_probability: Of an image becoming a mosaic of four images drawn from its category.

    Raises:
        ValueError: If a defective image has no mask.
    """

    def __init__(self, samples: pd.DataFrame, mosaic_probability: float) -> None:
        super().__init__()
        _check_masks(samples)
        self.samples = samples
        self.samples.attrs["task"] = "segmentation"
        self.mosaic_probability = mosaic_probability
        self._members = {name: torch.as_tensor(rows) for name, rows in self.samples.groupby("category").indices.items()}

    def __getitem__(self, index: int) -> CategoryItem:
        """An image with mask, label and category; the same for the same state of torch's generator."""
        row = self.samples.iloc[index]
        image, mask = self._read(index)
        if torch.rand(()) < self.mosaic_probability:
            members = self._members[row.category]
            drawn = members[torch.randint(len(members), (4,))].tolist()
            images, masks = zip(*[self._read(member) for member in drawn], strict=True)
            image, mask = mosaic(images, masks)
        image, mask = Image(image), Mask(mask)
        if self.augmentations:
            image, mask = self.augmentations(image, mask)
        return CategoryItem(
            image=image,
            gt_mask=mask,
            gt_label=mask.any().long(),
            image_path=str(row.image_path),
            category=row.category,
        )

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.samples.iloc[index]
        image = read_image(row.image_path, as_tensor=True)
        if row.label_index == LabelName.NORMAL:
            return image, torch.zeros(image.shape[-2:], dtype=torch.uint8)
        return image, read_mask(row.mask_path, as_tensor=True)

    @property
    def collate_fn(self) -> Callable:
        """Collates items to a CategoryBatch."""
        return CategoryBatch.collate


class AuxiliaryDataModule(AnomalibDataModule):
    """Trains on the test images of an auxiliary data set, with their masks, and tests on a target data set.

    The whole test split of each auxiliary category is used, whatever the auxiliary data module keeps for validation.

    Args:
        auxiliary: Data module of the labelled images. One with categories stands for all of them, one without, such
            as Folder, for a single category of its name.
        target: Data module whose validation and test images are used as such; None: only training is possible.
        categories: Names of the auxiliary categories. None: all that are on disk.
        mosaic_probability: Of an image becoming a 2x2 mosaic; the authors use 0.2 on MVTec AD, 0 on VisA.
        train_batch_size: Images per step; the authors' code uses 8, the report says 16.
        num_workers: Processes that load training images.

    Raises:
        ValueError: If a category does not exist, has no masks, or is the target itself.
    """

    def __init__(
        self,
        auxiliary: AnomalibDataModule,
        target: AnomalibDataModule | None = None,
        categories: list[str] | None = None,
        mosaic_probability: float = 0.2,
        train_batch_size: int = 8,
        num_workers: int = 8,
    ) -> None:
        super().__init__(train_batch_size, eval_batch_size=train_batch_size, num_workers=num_workers)
        if not 0 <= mosaic_probability <= 1:
            msg = f"`mosaic_probability` must be between 0 and 1, got {mosaic_probability}."
            raise ValueError(msg)
        self.auxiliary = auxiliary
        self.target = target
        self.categories = categories
        self.mosaic_probability = mosaic_probability
        self.category = target.category if target is not None else ""

    @property
    def name(self) -> str:
        """The names of both data modules, such as "MVTecAD-to-Visa"."""
        return f"{self.auxiliary.name}-to-{self.target.name}" if self.target is not None else self.auxiliary.name

    @property
    def train_categories(self) -> list[str]:
        """The auxiliary categories, known after ``setup``."""
        return sorted(self.train_data.samples.category.unique())

    def prepare_data(self) -> None:
        """Download what is missing of both data sets."""
        self.auxiliary.prepare_data()
        if self.target is not None:
            self.target.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Collect the auxiliary images and set up the target."""
        if self.target is not None:
            self.target.trainer = self.trainer
            self.target.setup(stage)
        if not hasattr(self, "train_data"):
            self._setup(stage)
        self._update_augmentations()

    def _setup(self, _stage: str | None = None) -> None:
        tables = [_test_samples(self.auxiliary, name) for name in self._chosen_categories()]
        self.train_data = AuxiliaryDataset(pd.concat(tables, ignore_index=True), self.mosaic_probability)

    def _chosen_categories(self) -> list[str]:
        existing = category_names(self.auxiliary)
        chosen = existing if self.categories is None else self.categories
        unknown = sorted(set(chosen) - set(existing))
        if unknown or not chosen:
            msg = f"`categories` {unknown or chosen} are not in the auxiliary data set, which has {existing}."
            raise ValueError(msg)
        if _same_data_set(self.auxiliary, self.target) and self.category in chosen:
            msg = (
                f"The target category {self.category!r} is among the auxiliary ones: adapters would be trained on the "
                "images they are tested on. Leave it out of `categories`."
            )
            raise ValueError(msg)
        return chosen

    def val_dataloader(self) -> Sequence:
        """The target's, or none."""
        return [] if self.target is None else self.target.val_dataloader()

    def test_dataloader(self) -> Sequence:
        """The target's, or none."""
        return [] if self.target is None else self.target.test_dataloader()

    def predict_dataloader(self) -> Sequence:
        """The target's, or none."""
        return [] if self.target is None else self.target.predict_dataloader()


def category_names(datamodule: AnomalibDataModule) -> list[str]:
    """The categories on disk: the subfolders of the data set's root with a test split; else the module's only one."""
    if not datamodule.category:
        return [datamodule.name]
    root = Path(getattr(datamodule, "split_root", datamodule.root))
    # anomalib makes empty folders for the categories of VisA that are not there.
    return sorted(path.name for path in root.glob("*") if any(path.glob("test/*/*"))) or [datamodule.category]


def _test_samples(datamodule: AnomalibDataModule, category: str) -> pd.DataFrame:
    """The whole test split of a category as a table, normal and defective images."""
    one = copy.deepcopy(datamodule)
    if one.category:
        one.category = category
    one.val_split_mode = ValSplitMode.NONE  # keep all of it
    one.setup()
    samples = one.test_data.samples
    if len(samples) == 0:
        msg = f"The category {category!r} of {datamodule.name} has no test images to train adapters on."
        raise ValueError(msg)
    return samples.assign(category=category)


def _same_data_set(one: AnomalibDataModule, other: AnomalibDataModule | None) -> bool:
    roots = [getattr(each, "root", None) for each in (one, other)]
    return None not in roots and Path(roots[0]).resolve() == Path(roots[1]).resolve()


def _check_masks(samples: pd.DataFrame) -> None:
    defective = samples[samples.label_index == LabelName.ABNORMAL]
    masks = defective.mask_path if "mask_path" in samples else pd.Series("", index=defective.index)
    missing = defective[~masks.map(lambda path: isinstance(path, str) and Path(path).is_file()).astype(bool)]
    if len(missing) or not len(defective):
        what = (
            f"{len(missing)} defective images have none, such as {missing.image_path.iloc[0]}"
            if len(missing)
            else ("there are no defective images")
        )
        msg = f"Adapters are trained on defects and their masks, but {what}. Add masks or choose other `categories`."
        raise ValueError(msg)
