# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Resizing against Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.components.pre_processor import AprilGanPreProcessor, fixed_point_weights
from conftest import GOLDEN, resize_pil


@pytest.fixture
def pre_processor() -> AprilGanPreProcessor:
    return AprilGanPreProcessor((70, 70), IMAGE_MEAN, IMAGE_STD)


@pytest.mark.parametrize("shape", [(112, 80), (40, 33)])
def test_images_equal_pillows(pre_processor: AprilGanPreProcessor, shape: tuple[int, int]) -> None:
    levels = np.asarray(Image.open(GOLDEN / "dataset" / "fabric" / "train" / "good" / "000.png"))[
        : shape[0], : shape[1]
    ]
    resized = np.asarray(resize_pil(Image.fromarray(levels), 70, Image.Resampling.BICUBIC)) / 255
    expected = (resized - IMAGE_MEAN) / IMAGE_STD
    actual = pre_processor.transform(ImageTensor(torch.from_numpy(levels.copy()).permute(2, 0, 1) / 255))
    difference = np.abs(actual.permute(1, 2, 0).numpy() - expected)
    assert difference.max() < 2.1 / 255 / min(IMAGE_STD)  # levels of rounding
    assert difference.mean() < 1e-3


@pytest.mark.parametrize("shape", [(300, 40), (33, 700)])
def test_rows_are_resized_before_columns(pre_processor: AprilGanPreProcessor, shape: tuple[int, int]) -> None:
    """The other order differs by 6 levels, in a quarter of the pixels, where an image grows and shrinks at once."""
    levels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(resize_pil(Image.fromarray(levels), 70, Image.Resampling.BICUBIC)).astype(int)
    actual = pre_processor.resize(ImageTensor(torch.from_numpy(levels).permute(2, 0, 1) / 255)).permute(1, 2, 0) * 255
    difference = np.abs(actual.numpy() - expected)
    assert difference.max() < 1.01
    assert (difference > 0.5).mean() < 0.01


def test_masks_equal_pillows_bilinear_majority(pre_processor: AprilGanPreProcessor) -> None:
    mask = np.zeros((112, 80), dtype=np.uint8)
    mask[20:47, 30:33] = 1
    expected = np.asarray(resize_pil(Image.fromarray(mask * 255), 70, Image.Resampling.BILINEAR)) / 255 > 0.5
    for masks in (Mask(torch.from_numpy(mask)), Mask(torch.from_numpy(mask).expand(2, -1, -1))):
        _, actual = pre_processor.transform(ImageTensor(torch.zeros(3, 112, 80)), masks)
        assert actual.dtype == masks.dtype
        assert isinstance(actual, Mask)
        assert (actual.numpy() == expected).all()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("dataset/*/ground_truth/*/*.png")), ids=lambda path: path.stem)
def test_golden_masks_equal_pillows(pre_processor: AprilGanPreProcessor, path: Path) -> None:
    mask = Image.open(path).convert("L")
    expected = np.asarray(resize_pil(mask, 70, Image.Resampling.BILINEAR)) / 255 > 0.5
    source = Mask(torch.from_numpy((np.asarray(mask) > 0).astype(np.uint8)))
    _, actual = pre_processor.transform(ImageTensor(torch.zeros(3, *source.shape)), source)
    assert (actual.numpy() == expected).all()


def test_what_has_the_size_is_not_touched(pre_processor: AprilGanPreProcessor) -> None:
    image, mask = ImageTensor(torch.rand(3, 70, 70)), Mask(torch.randint(0, 2, (70, 70)))
    resize = pre_processor.transform.transforms[0]
    assert torch.equal(resize(image), image)
    assert torch.equal(resize(mask), mask)


@pytest.fixture(scope="module")
def traced() -> torch.nn.Module:
    """What ONNX gets of the resizing to 70 x 70, for images of any size."""
    export_transform = AprilGanPreProcessor((70, 70), IMAGE_MEAN, IMAGE_STD).export_transform
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    resize = export_transform.transforms[0]
    return torch.export.export(resize, (torch.rand(1, 3, 90, 80),), dynamic_shapes=(sizes,)).module()


@pytest.mark.parametrize("shape", [(112, 80), (40, 33), (1, 1), (700, 30), (30, 700), (70, 33), (70, 70), (1120, 560)])
def test_exports_resize_to_the_same_bits(
    pre_processor: AprilGanPreProcessor, traced: torch.nn.Module, shape: tuple[int, int]
) -> None:
    levels = torch.randint(0, 256, (1, 3, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    levels[..., shape[0] // 2 :, :] = levels[..., shape[0] // 2 :, :] // 128 * 255  # edges that overshoot
    image = ImageTensor(levels / 255)
    assert torch.equal(pre_processor(image), pre_processor.transform(image))
    assert torch.equal(traced(image), pre_processor.transform.transforms[0](image))


def test_bicubic_weights_equal_a_naive_loop() -> None:
    """Pillow's formula, pixel by pixel, for shrinking and enlarging."""
    for length, size in ((9, 4), (4, 9), (4, 64)):
        scale = length / size
        reach = max(scale, 1)
        rows, unit = fixed_point_weights(length, size)
        assert 2**14 <= rows.max() < 2**15
        for row, weights in enumerate(rows):
            x = [abs(column + 0.5 - (row + 0.5) * scale) / reach for column in range(length)]
            kernel = [
                1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else (-0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0)
                for d in x
            ]
            torch.testing.assert_close(
                weights, unit * torch.tensor(kernel, dtype=torch.double) / sum(kernel), atol=0.5, rtol=0
            )


def test_checkpoint_round_trip_with_another_size(pre_processor: AprilGanPreProcessor) -> None:
    other = AprilGanPreProcessor((56, 56), (0.5,) * 3, (0.5,) * 3)
    other.load_checkpoint_config(pre_processor.checkpoint_config())
    image = ImageTensor(torch.rand(3, 80, 90))
    assert torch.equal(other.transform(image), pre_processor.transform(image))


def test_another_transform_in_a_checkpoint_is_refused(pre_processor: AprilGanPreProcessor) -> None:
    with pytest.raises(ValueError, match="another pre-processor"):
        pre_processor.load_checkpoint_config({"transform": None})
