# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Resizing against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from anomalib_aprilgan.encoder import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.pre_processor import AprilGanPreProcessor
from conftest import GOLDEN


@pytest.fixture
def pre_processor() -> AprilGanPreProcessor:
    return AprilGanPreProcessor((70, 70), IMAGE_MEAN, IMAGE_STD)


@pytest.mark.parametrize("shape", [(112, 80), (40, 33)])
def test_images_equal_pillows(pre_processor: AprilGanPreProcessor, shape: tuple[int, int]) -> None:
    levels = np.asarray(Image.open(GOLDEN / "dataset" / "fabric" / "train" / "good" / "000.png"))[
        : shape[0], : shape[1]
    ]
    resized = np.asarray(Image.fromarray(levels).resize((70, 70), Image.Resampling.BICUBIC)) / 255
    expected = (resized - IMAGE_MEAN) / IMAGE_STD
    actual = pre_processor.transform(ImageTensor(torch.from_numpy(levels.copy()).permute(2, 0, 1) / 255))
    difference = np.abs(actual.permute(1, 2, 0).numpy() - expected)
    assert difference.max() < 2.1 / 255 / min(IMAGE_STD)  # levels of rounding
    assert difference.mean() < 1e-3


def test_masks_equal_pillows_bilinear_majority(pre_processor: AprilGanPreProcessor) -> None:
    mask = np.zeros((112, 80), dtype=np.uint8)
    mask[20:47, 30:33] = 1
    expected = np.asarray(Image.fromarray(mask * 255).resize((70, 70), Image.Resampling.BILINEAR)) / 255 > 0.5
    for masks in (Mask(torch.from_numpy(mask)), Mask(torch.from_numpy(mask).expand(2, -1, -1))):
        _, actual = pre_processor.transform(ImageTensor(torch.zeros(3, 112, 80)), masks)
        assert actual.dtype == masks.dtype
        assert isinstance(actual, Mask)
        assert (actual.numpy() == expected).all()


def test_what_has_the_size_is_not_touched(pre_processor: AprilGanPreProcessor) -> None:
    image, mask = ImageTensor(torch.rand(3, 70, 70)), Mask(torch.randint(0, 2, (70, 70)))
    resize = pre_processor.transform.transforms[0]
    assert torch.equal(resize(image), image)
    assert torch.equal(resize(mask), mask)


def test_the_exported_transform_is_torchvisions(pre_processor: AprilGanPreProcessor) -> None:
    assert type(pre_processor.export_transform.transforms[0]) is Resize


def test_checkpoint_round_trip_with_another_size(pre_processor: AprilGanPreProcessor) -> None:
    other = AprilGanPreProcessor((56, 56), (0.5,) * 3, (0.5,) * 3)
    other.load_checkpoint_config(pre_processor.checkpoint_config())
    image = ImageTensor(torch.rand(3, 80, 90))
    assert torch.equal(other.transform(image), pre_processor.transform(image))


def test_another_transform_in_a_checkpoint_is_refused(pre_processor: AprilGanPreProcessor) -> None:
    with pytest.raises(ValueError, match="another pre-processor"):
        pre_processor.load_checkpoint_config({"transform": None})
