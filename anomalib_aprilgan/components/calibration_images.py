# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Images to calibrate an 8-bit model on, and to compare it with the float32 model on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.tv_tensors import Image

from anomalib_aprilgan.components.pre_processor import PillowResize, resize_mask
from anomalib_aprilgan.data.defects import DEFECTS
from anomalib_aprilgan.data.references import read_augmentations

# Images to compare on, each of which is run twice, and to calibrate on: more did not help, and take time.
MOST, MOST_NORMAL = 100, 32


class CheckedImage(NamedTuple):
    """An image (1, 3, H, W) in [0, 1] and its mask (S, S), 1 where abnormal; None: no mask is known."""

    image: Tensor
    mask: Tensor | None


def images_of_references(
    paths: Sequence[str], side: int, size: Sequence[int]
) -> tuple[list[Tensor], list[CheckedImage]]:
    """Augmented views (1, 3, H, W) of references; and each of them as it is, and with a defect painted on it.

    Args:
        paths: Of the references.
        side: Height and width S of the model's maps.
        size: H and W in pixels, of what the exported model accepts.
    """
    chosen = _evenly(list(dict.fromkeys(paths)), MOST_NORMAL // 4)
    views = [view for path in chosen for view in read_augmentations(path, PillowResize([side, side]))]
    good = [CheckedImage(_sized(view, size), torch.zeros(side, side)) for view in views]
    painted = [_painted(view, number) for number, view in enumerate(views)]
    return [each.image for each in good], [*good, *(CheckedImage(_sized(view, size), mask) for view, mask in painted)]


def _painted(view: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """A view with a defect (3, S, S), and its mask (S, S)."""
    kind = sorted(DEFECTS)[number % len(DEFECTS)]
    image, coverage = DEFECTS[kind](view.permute(1, 2, 0).double().numpy(), np.random.default_rng(number))
    return torch.from_numpy(image).permute(2, 0, 1).float().clamp(0, 1), torch.from_numpy(coverage > 0.3).float()


def images_of_datamodule(datamodule: Any, side: int, size: Sequence[int]) -> tuple[list[Tensor], list[CheckedImage]]:
    """Normal training images (1, 3, H, W), and test images with their masks, if they have some.

    Args:
        datamodule: Of anomalib.
        side: Height and width S of the model's maps.
        size: H and W in pixels, of what the exported model accepts.
    """
    datamodule.prepare_data()
    datamodule.setup()
    normal = [_sized(item.image, size) for item in _items(datamodule.train_data, MOST_NORMAL)]
    test = [CheckedImage(_sized(item.image, size), _mask(item, side)) for item in _items(datamodule.test_data, MOST)]
    return normal, test


def _mask(item: Any, side: int) -> Tensor | None:
    return None if item.gt_mask is None else resize_mask(torch.as_tensor(item.gt_mask), [side, side]).float()


def _sized(image: Tensor, size: Sequence[int]) -> Tensor:
    return torch.as_tensor(PillowResize(size)(Image(image))).as_subclass(Tensor).unsqueeze(0)


def _items(dataset: Any, most: int) -> Iterator[Any]:
    return (dataset[index] for index in _evenly(range(len(dataset)), most))


def _evenly(values: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of the values, from all parts of the sequence."""
    return values[:: -(-len(values) // most) or 1]
