# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of image towers: how deep and wide they are, which image sizes fit, and the way of images through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor

from anomalib_aprilgan.compat.open_clip import outputs_of_blocks, pool_tokens


@dataclass(frozen=True)
class ViT:
    """open_clip's own vision transformer; its layers are the blocks."""

    visual: Any

    @property
    def strides(self) -> list[int]:
        """Pixels per token of each layer that can be tapped."""
        return [self.visual.patch_size[0]] * len(self.visual.transformer.resblocks)

    def width(self, layer: int) -> int:
        """Return the number of channels D of a layer (1-based): the same for all."""
        del layer
        return self.visual.transformer.width

    def misfit(self, image_size: int) -> str | None:
        """Return in words why images of this height and width in pixels do not fit, or None."""
        return _unfilled(image_size, self.visual.patch_size[0])

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (B, E), and each tapped layer's tokens (B, N, D): raw, without the class token."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        embedded = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        stages = []
        for number, tokens in enumerate(outputs_of_blocks(visual.transformer, visual.ln_pre(embedded)), start=1):
            if number in layers:
                stages.append(tokens[:, 1:])
        return pool_tokens(visual, tokens), stages


@dataclass(frozen=True)
class ResNet:
    """OpenAI's modified ResNet; its layers are layer1 to layer4."""

    visual: Any

    @property
    def strides(self) -> list[int]:
        """Pixels per token of each layer that can be tapped."""
        return [4, 8, 16, 32]

    def width(self, layer: int) -> int:
        """Return the number of channels D of a layer (1-based)."""
        return self._stage(layer)[-1].conv3.out_channels

    def misfit(self, image_size: int) -> str | None:
        """Return in words why images of this height and width in pixels do not fit, or None."""
        # The stem rounds odd sizes up, the attention pool was built for image_size // 32.
        if math.ceil(image_size / 2) // 16 != image_size // 32:
            return "does not fit the attention pool; use a multiple of 32 pixels"
        return None

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (B, E), and each tapped layer's feature map, row by row (B, N, D)."""
        x = self.visual.stem(images)
        stages = []
        for number in range(1, len(self.strides) + 1):
            x = self._stage(number)(x)
            if number in layers:
                stages.append(_tokens(x))
        return self.visual.attnpool(x), stages

    def _stage(self, number: int) -> Any:
        return getattr(self.visual, f"layer{number}")


@dataclass(frozen=True)
class Timm:
    """A network of timm, such as ConvNeXt, EVA and SigLIP's; its layers are those that timm tells of."""

    visual: Any

    @property
    def strides(self) -> list[int]:
        """Pixels per token of each layer that can be tapped."""
        return [layer["reduction"] for layer in self.visual.trunk.feature_info]

    def width(self, layer: int) -> int:
        """Return the number of channels D of a layer (1-based)."""
        return self.visual.trunk.feature_info[layer - 1]["num_chs"]

    def misfit(self, image_size: int) -> str | None:
        """Return in words why images of this height and width in pixels do not fit, or None."""
        patch = getattr(getattr(self.visual.trunk, "patch_embed", None), "patch_size", None)
        return patch and _unfilled(image_size, patch[0])

    def encode(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (B, E), and each tapped layer's feature map, row by row (B, N, D)."""
        last, stages = self.visual.trunk.forward_intermediates(images, indices=[layer - 1 for layer in layers])
        return self.visual.head(self.visual.trunk.forward_head(last)), [_tokens(stage) for stage in stages]


def tower_of(visual: Any) -> ViT | ResNet | Timm:
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
