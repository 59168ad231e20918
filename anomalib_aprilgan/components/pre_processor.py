# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Resizing as the authors do it, with Pillow's results, inside anomalib's pre-processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.spec import spec_to_transform, transform_to_spec
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize, Transform
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Mask, wrap

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.compat.anomalib import restore_misread
from anomalib_aprilgan.compat.tiles import reader
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.data.predict import ImagesToPredict, path_datasets


class PillowResize(Resize):
    """Resizes images in [0, 1] in 8 bits, as Pillow does, and masks bilinearly to where more than half is covered.

    Differs from torchvision, which keeps the overshoot of bicubic interpolation in floating images, and takes masks
    from the nearest pixel above and to the left. This shifts small defects by up to a pixel.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image (..., 3, H, W) or mask (..., H, W) at the wanted size."""
        if list(inpt.shape[-2:]) == list(self.size):
            return inpt
        if isinstance(inpt, Mask):
            return wrap(resize_mask(inpt.as_subclass(Tensor), self.size), like=inpt)
        levels = (inpt * 255).round().clamp(0, 255).to(torch.uint8)
        return wrap(super().transform(levels, params).to(inpt.dtype) / 255, like=inpt)


def resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The mask at another size: 1 where more than half of the pixel is abnormal, by Pillow's bilinear interpolation.

    Args:
        mask: Not 0 where abnormal (..., H, W).
        size: Height and width in pixels.
    """
    levels = (mask != 0).to(torch.uint8).unsqueeze(0) * 255
    levels = F.resize(levels, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    return (levels.squeeze(0) > 127).to(mask.dtype)


class MatrixResize(nn.Module):
    """PillowResize for exported models: two matrix products, which all runtimes compute alike, for any input size.

    Differs from anomalib, which exports resizing without antialiasing: large images then give other scores.

    Args:
        size: Height and width in pixels.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = list(size)

    def forward(self, images: Tensor) -> Tensor:
        """The images (B, 3, H, W) in [0, 1] at the wanted size, in steps of 1 / 255 as Pillow's."""
        height, width = images.shape[-2:]
        levels = _eight_bits(images * 255)
        levels = _eight_bits(levels @ bicubic_weights(width, self.size[1]).to(images).mT)
        return _eight_bits(bicubic_weights(height, self.size[0]).to(images) @ levels) / 255


def bicubic_weights(length: int, size: int) -> Tensor:
    """The weight (size, length) of each of ``length`` pixels in each of ``size`` new ones.

    Pillow's bicubic kernel (a = -0.5), widened when there are fewer new pixels than old ones.
    """
    scale = length / size
    centers = (torch.arange(size) + 0.5) * scale
    reach: Any = scale.clamp(min=1.0) if isinstance(scale, Tensor) else torch.sym_max(scale, 1.0)
    x = (torch.arange(length) + 0.5 - centers.unsqueeze(1)).abs() / reach
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)


def _eight_bits(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, 255)


def transform_of(pre_processor: nn.Module | None, image_size: int) -> Transform:
    """What a pre-processor does to an image; without one of anomalib's, what AprilGan's own would do."""
    if isinstance(pre_processor, PreProcessor):
        return pre_processor.transform
    return AprilGanPreProcessor((image_size, image_size), IMAGE_MEAN, IMAGE_STD).transform


class AprilGanPreProcessor(PreProcessor):
    """Resizing to the model's size with Pillow's results, then normalisation.

    Checkpoints hold torchvision's transforms of the same size instead of ours, because anomalib restores only these.

    Args:
        image_size: Height and width in pixels.
        mean: Mean of each RGB channel of images in [0, 1].
        std: Standard deviation of each RGB channel.
    """

    def __init__(self, image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        resize = Resize(list(image_size), interpolation=InterpolationMode.BICUBIC, antialias=True)
        self._use(Compose([resize, Normalize(mean=list(mean), std=list(std))]))

    def _use(self, plain: Compose) -> None:
        resize, normalize = plain.transforms
        pillow = PillowResize(resize.size, interpolation=resize.interpolation, antialias=True)
        self.plain = plain
        self.transform = Compose([pillow, normalize])
        self.export_transform = Compose([MatrixResize(resize.size), normalize])

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        """Transform the batch."""
        restore_misread(batch, reader(read_rgb, trainer))
        super().on_validation_batch_start(trainer, pl_module, batch, *args)

    def on_test_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        """Transform the batch."""
        restore_misread(batch, reader(read_rgb, trainer))
        super().on_test_batch_start(trainer, pl_module, batch, *args)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform the batch."""
        if not isinstance(path_datasets(trainer).get(dataloader_idx), ImagesToPredict):
            restore_misread(batch, reader(read_rgb, trainer, dataloader_idx))
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def checkpoint_config(self) -> dict[str, Any]:
        """The transform as plain data."""
        return {"transform": transform_to_spec(self.plain)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what ``checkpoint_config`` returned.

        Raises:
            ValueError: If the checkpoint was made with another pre-processor.
        """
        plain = spec_to_transform(config["transform"])
        if not isinstance(plain, Compose) or [type(part) for part in plain.transforms] != [Resize, Normalize]:
            msg = "The checkpoint was made with another pre-processor: pass the same one to the model that loads it."
            raise ValueError(msg)
        self._use(plain)
