# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Resizing as the authors do it, with Pillow's results, inside anomalib's pre-processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.spec import spec_to_transform, transform_to_spec
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize, Transform
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Mask, wrap

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.compat.anomalib import CollateResized, restore_misread
from anomalib_aprilgan.compat.lightning import own_loaders
from anomalib_aprilgan.compat.tiles import reader
from anomalib_aprilgan.data.images import read_if_misread
from anomalib_aprilgan.data.listing import leave_out_hidden
from anomalib_aprilgan.data.masks import check_test_files
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


class ExportResize(nn.Module):
    """PillowResize for exports: itself in torch, and for ONNX its arithmetic as two matrix products.

    Differs from anomalib, which exports resizing without antialiasing: large images then give other scores.

    Args:
        resize: What is done in torch.
    """

    def __init__(self, resize: PillowResize) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, images: Tensor) -> Tensor:
        """The images (B, 3, H, W) in [0, 1] at the wanted size, in steps of 1 / 255."""
        if not torch.compiler.is_exporting():
            return self.resize(images)
        height, width = self.resize.size
        levels = (images * 255).round().clamp(0, 255)
        return _resize_rows(_resize_rows(levels, width).mT, height).mT / 255


def _resize_rows(levels: Tensor, size: int) -> Tensor:
    """Levels (..., L) in 0 to 255 at another length, (..., size). All numbers are integers that float32 holds."""
    weights, unit = fixed_point_weights(levels.shape[-1], size)
    coarse = (weights / 256).floor()
    halves = torch.cat([coarse, weights - 256 * coarse]).to(levels)
    high, low = (levels @ halves.mT).chunk(2, dim=-1)
    unit = unit.to(levels)
    carried = high + ((low + unit / 2) / 256).floor()
    return (carried * 256 / unit).floor().clamp(0, 255)


def fixed_point_weights(length: int, size: int) -> tuple[Tensor, Tensor]:
    """The weight (size, length) of each of ``length`` pixels in each of ``size`` new ones, and the weights' sum ().

    Pillow's bicubic kernel (a = -0.5), widened when there are fewer new pixels than old ones, in 16-bit integers as
    torch resizes 8-bit images: the unit is the largest power of 2 that lets the largest weight fit.
    """
    old, new = 2 * torch.arange(length) + 1, 2 * torch.arange(size) + 1
    longer: Any = torch.sym_max(length, size)
    x = (old * size - new.unsqueeze(1) * length).abs().double() / (2 * longer)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = weights / weights.sum(dim=1, keepdim=True)
    units = 2.0 ** torch.arange(1, 23, dtype=torch.double)
    unit = units.where(weights.max() * units < 2**15 - 0.5, 1.0).max()
    return weights.sign() * (weights.abs() * unit + 0.5).floor(), unit


def transform_of(pre_processor: nn.Module | None, size: tuple[int, int]) -> Transform:
    """What a pre-processor does to an image; without one of anomalib's, what AprilGan's own would do."""
    if isinstance(pre_processor, PreProcessor):
        return pre_processor.transform
    return AprilGanPreProcessor(size, IMAGE_MEAN, IMAGE_STD).transform


def statistics_of(pre_processor: Any, image_size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel with which a pre-processor normalises images in [0, 1]."""
    for part in reversed(list(transform_of(pre_processor, (image_size, image_size)).modules())):
        if isinstance(part, Normalize):
            return tuple(part.mean), tuple(part.std)
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _own_collate(loader: DataLoader) -> Callable[[list], Any]:
    """What a user's loader joins items with; an interrupted run may have left ours."""
    collate = loader.collate_fn
    return collate.collate if isinstance(collate, CollateResized) else collate


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
        self.resize = pillow
        self.transform = Compose([pillow, normalize])
        self.export_transform = Compose([ExportResize(pillow), normalize])

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check the images of the user's own loaders; have those of different sizes resized as if each were alone."""
        del pl_module, stage
        loaders = own_loaders(trainer)
        leave_out_hidden([loader.dataset for loader in loaders])
        check_test_files([loader.dataset for loader in loaders])
        for loader in loaders:
            loader.collate_fn = CollateResized(_own_collate(loader), self.resize)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Give the user's loaders back as they were."""
        del pl_module, stage
        for loader in own_loaders(trainer):
            loader.collate_fn = _own_collate(loader)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        """Transform the batch."""
        restore_misread(batch, reader(read_if_misread, trainer), self.resize)
        super().on_validation_batch_start(trainer, pl_module, batch, *args)

    def on_test_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        """Transform the batch."""
        restore_misread(batch, reader(read_if_misread, trainer), self.resize)
        super().on_test_batch_start(trainer, pl_module, batch, *args)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform the batch."""
        if not isinstance(path_datasets(trainer).get(dataloader_idx), ImagesToPredict):
            restore_misread(batch, reader(read_if_misread, trainer, dataloader_idx), self.resize)
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
