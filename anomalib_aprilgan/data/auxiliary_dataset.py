# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The images of an auxiliary data set with labels, masks and categories. Some are joined to mosaics."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.tv_tensors import Image, Mask

from anomalib_aprilgan.data.held_files import HeldFiles
from anomalib_aprilgan.data.images import read_image
from anomalib_aprilgan.data.masks import check_files, mask_column, mask_files, mask_tensor, problem_of, read_masks
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
        mosaic_probability: Probability that an image becomes a mosaic of four images drawn from its category.
        seed: Seed of the draws.

    Raises:
        ValueError: If a defective image has no mask.
    """

    def __init__(self, samples: pd.DataFrame, mosaic_probability: float, seed: int = 0) -> None:
        super().__init__()
        _check_masks(samples)
        self.samples = samples
        self.samples.attrs["task"] = "segmentation"
        self.mosaic_probability = mosaic_probability
        self.seed = seed
        self.files = HeldFiles()
        self._members = self.samples.groupby("category").indices

    def __getitem__(self, number: int) -> CategoryItem:
        """An image with mask, label and category.

        Args:
            number: Index of the image plus epoch times number of images. Mosaics depend on it and on the seed only, not
                on processes or the order of loading.
        """
        index = number % len(self.samples)
        row = self.samples.iloc[index]
        rng = np.random.default_rng([self.seed, number])
        if rng.random() < self.mosaic_probability:
            drawn = rng.choice(self._members[row.category], size=4)
            image, mask = mosaic(*zip(*[self._read(member) for member in drawn], strict=True))
        else:
            image, mask = self._read(index)
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

    def __iter__(self) -> Iterator[CategoryItem]:
        """The images of the first epoch."""
        return (self[index] for index in range(len(self)))

    def check_files(self, memory: float = 0) -> None:
        """Decode all images and masks, so that a damaged file stops a training before it starts.

        Args:
            memory: Bytes for decoded files, which are held for this and all epochs, until ``files.clear()``.

        Raises:
            ValueError: If some can't be read, or a mask has other sides than its image.
        """
        self.files.limit = memory
        check_files(self.samples, "training", partial(problem_of, size_of=self._hold_image))
        for value in self.samples.mask_path[self.samples.label_index == LabelName.ABNORMAL]:
            for path in mask_files(value):
                self.files.hold(mask_tensor, path)

    def _hold_image(self, path: str) -> tuple[int, int]:
        height, width = self.files.hold(read_image, path).shape[-2:]
        return width, height

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.samples.iloc[index]
        image = self.files.read(read_image, row.image_path)
        if row.label_index == LabelName.NORMAL:
            return image, torch.zeros(image.shape[-2:], dtype=torch.uint8)
        return image, read_masks(row.mask_path, partial(self.files.read, mask_tensor))

    @property
    def collate_fn(self) -> Callable:
        """Collates items to a CategoryBatch."""
        return CategoryBatch.collate


class EpochSampler(DistributedSampler[int]):
    """Each image once per epoch, in an order that depends on seed and epoch alone, numbered as AuxiliaryDataset asks.

    A resumed training therefore sees the images of an uninterrupted one. The processes of a distributed training
    together see in each step the images of a single process with larger batches. If the number of images is not a
    multiple of the number of processes, the first images of the order come twice.

    Args:
        dataset: Images.
        seed: Seed of the order.
        epoch: First epoch, from 0.
        start: Number of this process's images that the first epoch leaves out, because an interrupted training has
            seen them.
        rank: Number of this process, from 0.
        num_replicas: Number of processes.
    """

    def __init__(
        self,
        dataset: AuxiliaryDataset,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        self.length = len(dataset)
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        order = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        start, self.start = self.start, 0
        return iter((order[start:] + self.epoch * self.length).tolist())


class ResumableLoader(DataLoader):
    """A loader that resumes in the middle of an epoch. Its data module holds the state."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing. Lightning resumes in an epoch only if the loader has this method."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""


def _check_masks(samples: pd.DataFrame) -> None:
    defective = samples[samples.label_index == LabelName.ABNORMAL]
    missing = defective[~mask_column(defective).map(mask_files).astype(bool)]
    if len(missing) or not len(defective):
        what = (
            f"{len(missing)} defective images have none, such as {missing.image_path.iloc[0]}"
            if len(missing)
            else ("there are no defective images")
        )
        msg = f"Adapters are trained on defects and their masks, but {what}. Add masks or choose other `categories`."
        raise ValueError(msg)
