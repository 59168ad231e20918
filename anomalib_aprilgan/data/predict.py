# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The images at a path that ``anomalib predict`` is given: which can be read, and each decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageItem, PredictDataset
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torchvision.transforms.v2.functional import resize, to_dtype
from torchvision.tv_tensors import Image

from anomalib_aprilgan.compat.anomalib import change_class
from anomalib_aprilgan.data.images import decode, readable, scaled_by_anomalib
from anomalib_aprilgan.data.listing import image_files

SMALLEST = 256


class ImagesToPredict(PredictDataset):
    """anomalib's data set of a path, with images of all depths and rotations.

    Thumbnails of decoded images are kept until the visualizer takes them.
    """

    thumbnail_box: tuple[int, int] | None = None  # in which thumbnails fit; None: there are none
    thumbnails: dict[str, Tensor]

    def __getitem__(self, index: int) -> ImageItem:
        """The image with its path."""
        path = str(self.image_filenames[index])
        image, misread = decode(path)
        if self.thumbnail_box is not None and get_worker_info() is None:
            self.thumbnails[path] = to_be_shown(image, self.thumbnail_box)
        image = Image(image if misread else scaled_by_anomalib(image))
        return ImageItem(image=self.transform(image) if self.transform else image, image_path=path)


def to_be_shown(image: Tensor, box: tuple[int, int]) -> Tensor:
    """The image (3, H, W) in [0, 1] with 8 bits, in its own proportions, resized only if it must be.

    Args:
        image: To be shown.
        box: Width and height that it does not exceed. The longer side has at least 256 pixels, for the sake of titles.
    """
    height, width = image.shape[-2:]
    scale = min(max(1.0, SMALLEST / max(width, height)), box[0] / width, box[1] / height)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return to_dtype(resize(image, size, antialias=True).clamp(0, 1), torch.uint8, scale=True)


def path_datasets(trainer: Trainer) -> dict[int, Any]:
    """The data sets that anomalib has made of images and folders to predict, by the numbers of their loaders."""
    loaders = trainer.predict_dataloaders if trainer.predicting else None
    datasets = [getattr(loader, "dataset", None) for loader in loaders] if isinstance(loaders, list) else []
    return {number: dataset for number, dataset in enumerate(datasets) if isinstance(dataset, PredictDataset)}


def run_loaders(trainer: Trainer) -> list[DataLoader]:
    """New loaders of all images of the run at hand. The trainer's own can't be read twice at the same time."""
    stage = "predict" if trainer.predicting else "test" if trainer.testing else "val"
    own: Any = getattr(trainer, f"{stage}_dataloaders")
    return [
        DataLoader(each.dataset, each.batch_size or 1, num_workers=each.num_workers, collate_fn=each.collate_fn)
        for each in (own if isinstance(own, list) else [own])
    ]


def listed_images(dataset: Any) -> list[str]:
    """Files of the images of a data set; none where it does not list them, as one that is not anomalib's."""
    images = getattr(dataset, "image_filenames", getattr(getattr(dataset, "samples", None), "image_path", ()))
    return [str(path) for path in images]


def source_loader(folder: str | Path) -> DataLoader:
    """Loads all images in and below a folder that can be read, one by one; the names of the others are logged.

    Raises:
        ValueError: If there is no such folder or no image in it.
    """
    try:
        paths = image_files(folder)
    except (FileNotFoundError, ValueError) as error:
        msg = f"`pool_source` {str(folder)!r} holds no images: {error} Give a folder of images."
        raise ValueError(msg) from error
    dataset = ImagesToPredict(folder)
    dataset.image_filenames = readable(paths)
    return DataLoader(dataset, collate_fn=dataset.collate_fn)


def leave_out_unreadable(loaders: Sequence[DataLoader]) -> None:
    """Leave out files that can't be read as images, so that none of them stops the prediction; log their names.

    The others are read by us.

    Raises:
        ValueError: If no image is left.
    """
    datasets: list[Any] = [loader.dataset for loader in loaders if isinstance(loader.dataset, PredictDataset)]
    for dataset in datasets:
        dataset.image_filenames = readable(dataset.image_filenames)
        if not isinstance(dataset, ImagesToPredict):
            change_class(dataset, ImagesToPredict)
        dataset.thumbnails = {}
