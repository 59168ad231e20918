# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of image towers: how deep and wide they are, which image sizes fit, and the way of images through them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor

from anomalib_aprilgan.compat.open_clip import outputs_of_blocks, pool_tokens


@dataclass(frozen=True)
class Tower(ABC):
    """One of open_clip's image towers, and what is asked of any kind of them.

    Args:
        visual: The image tower.
    """

    visual: Any

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers that can be tapped."""

    @abstractmethod
    def width(self, layer: int) -> int:
        """Return the number of channels D of a layer (1-based)."""

    @abstractmethod
    def misfit(self, image_size: int) -> str | None:
        """Return in words why images of this height and width in pixels do not fit, or None."""

    @abstractmethod
    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (B, E) of images (B, 3, H, W), and the patch tokens (B, N, D) of each tapped layer."""


class ViT(Tower):
    """open_clip's own vision transformer."""

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.visual.transformer.resblocks)

    def width(self, layer: int) -> int:
        """Return the width of the transformer."""
        del layer
        return self.visual.transformer.width

    def misfit(self, image_size: int) -> str | None:
        """Return a message if the patches do not fill the image."""
        return _unfilled(image_size, self.visual.patch_size[0])

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding and the raw outputs of the tapped blocks without their class token."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        stages = []
        for number, output in enumerate(outputs_of_blocks(visual.transformer, visual.ln_pre(tokens)), start=1):
            tokens = output
            if number in layers:
                stages.append(tokens[:, 1:])
        return pool_tokens(visual, tokens), stages


class ResNet(Tower):
    """OpenAI's modified ResNet; its layers are layer1 to layer4."""

    @property
    def depth(self) -> int:
        """Number of stages."""
        return 4

    def width(self, layer: int) -> int:
        """Return the channels after a stage."""
        return self._stage(layer)[-1].conv3.out_channels

    def misfit(self, image_size: int) -> str | None:
        """Return a message if the attention pool has another size than the feature map before it."""
        # The stem rounds odd sizes up, the attention pool was built for image_size // 32.
        if math.ceil(image_size / 2) // 16 != image_size // 32:
            return "does not fit the attention pool; use a multiple of 32 pixels"
        return None

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding and the feature maps of the tapped stages, row by row."""
        x = self.visual.stem(images)
        stages = []
        for number in range(1, self.depth + 1):
            x = self._stage(number)(x)
            if number in layers:
                stages.append(_tokens(x))
        return self.visual.attnpool(x), stages

    def _stage(self, number: int) -> Any:
        return getattr(self.visual, f"layer{number}")


class Timm(Tower):
    """A network of timm, such as ConvNeXt, EVA and SigLIP's."""

    @property
    def depth(self) -> int:
        """Number of layers that timm tells of."""
        return len(self.visual.trunk.feature_info)

    def width(self, layer: int) -> int:
        """Return the channels that timm tells of."""
        return self.visual.trunk.feature_info[layer - 1]["num_chs"]

    def misfit(self, image_size: int) -> str | None:
        """Return a message if there are patches and they do not fill the image."""
        patch = getattr(getattr(self.visual.trunk, "patch_embed", None), "patch_size", None)
        return patch and _unfilled(image_size, patch[0])

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding and the feature maps of the tapped layers, row by row."""
        last, stages = self.visual.trunk.forward_intermediates(images, indices=[layer - 1 for layer in layers])
        return self.visual.head(self.visual.trunk.forward_head(last)), [_tokens(stage) for stage in stages]


def tower_of(visual: Any) -> Tower:
    """Return the image tower with the functions of its kind."""
    if isinstance(visual, VisionTransformer):
        return ViT(visual)
    return ResNet(visual) if isinstance(visual, ModifiedResNet) else Timm(visual)


def _unfilled(image_size: int, patch: int) -> str | None:
    if image_size % patch == 0:
        return None
    return f"is not a multiple of the patch size {patch}; {max(patch, round(image_size / patch) * patch)} would be"


def _tokens(feature_map: Tensor) -> Tensor:
    """Return the patch tokens (B, N, D) of a feature map (B, D, h, w)."""
    return feature_map.flatten(2).transpose(1, 2)
