# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A second frozen encoder, a network of timm, whose patch tokens fill memory banks and pools in place of CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from anomalib_aprilgan.clip import timm_networks
from anomalib_aprilgan.clip.configuration import checked_layers
from anomalib_aprilgan.clip.fingerprint import WeightsHash
from anomalib_aprilgan.compat.timm import set_input_size

Encode = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
# Pixels per token of a CNN's stages that are tapped by default.
STRIDES = (8, 16, 32)


class MemoryEncoder(nn.Module):
    """A frozen network of timm that makes patch tokens of CLIP's preprocessed images.

    It is always in eval mode, and never computes gradients.

    Args:
        backbone: Name of timm, with or without a tag, such as "vit_small_patch14_dinov2.lvd142m".
        pretrained: True: timm's own weights, downloaded once; path of a file of weights; False: random weights, which
            are the same every time (tests).
        image_size: Height and width of CLIP's images in pixels. They are resized to a multiple of the patch size, or
            to the size that the network is bound to.
        statistics: Mean and standard deviation per RGB channel with which the images were normalised.
        layers: 1-based numbers of the tapped layers (blocks of a ViT, stages of a CNN). None: a ViT's last block, as
            AnomalyDINO; a CNN's stages of 8, 16 and 32 pixels per token.

    Raises:
        ValueError: If the name is unknown, a layer does not exist, the network has no patch tokens or the weights do
            not fit it.
        FileNotFoundError: If there is no such file.
        ConnectionError: If timm's weights are neither cached nor to be downloaded.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: str,
        pretrained: bool | str | Path,
        image_size: int,
        statistics: Statistics,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        timm_networks.check_name(backbone)
        self.image_size = self.side = image_size
        # What does not fit is seen before weights are read or downloaded.
        self._use(timm_networks.untouched(backbone), layers, statistics, backbone)
        self.widths = self._checked_widths(backbone)
        self._use(timm_networks.create(backbone, pretrained), layers, statistics, backbone)
        self._weights_hash = WeightsHash()
        self.requires_grad_(False)
        self.eval()

    def _use(self, network: Any, layers: Sequence[int] | None, statistics: Statistics, backbone: str) -> None:
        """Bring a network to the image size, and leave out what the tapped layers do not need."""
        self.network = network
        strides = [layer["reduction"] for layer in getattr(network, "feature_info", [])]
        self.is_vit = len(set(strides)) == 1
        layers = _default_layers(strides) if layers is None else layers
        self.layers = checked_layers(layers, strides, backbone, "memory_layers")
        config = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
        known = (*statistics, config["mean"], config["std"])
        mean, std, own_mean, own_std = (torch.tensor(each).view(3, 1, 1) for each in known)
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        if hasattr(network, "set_input_size"):
            patch = network.patch_embed.patch_size[0]
            self.side = max(patch, round(self.image_size / patch) * patch)
            set_input_size(network, self.side)
        elif network.pretrained_cfg.get("fixed_input_size"):
            self.side = config["input_size"][-1]
        if hasattr(network, "prune_intermediate_layers"):
            network.prune_intermediate_layers([layer - 1 for layer in self.layers])

    def _checked_widths(self, backbone: str) -> list[int]:
        """Width D of each stage, without computing the stages."""
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                found = self.eval().feature_maps(torch.empty(1, 3, self.image_size, self.image_size))
            shapes = [tuple(each.shape) for each in found]
            why = f"its layers give {shapes}"
        except Exception as error:  # noqa: BLE001  # whatever networks raise
            shapes, why = [()], f"{type(error).__name__}: {error}"
        if any(len(shape) != 4 or shape[2] != shape[3] for shape in shapes):
            msg = (
                f"`memory_backbone` {backbone!r} makes no square of patch tokens of {self.side} x {self.side} pixels "
                f"({why}). Use another one, such as 'vit_small_patch14_dinov2' or 'resnet50', or another `image_size`."
            )
            raise ValueError(msg)
        return [shape[1] for shape in shapes]

    def train(self, mode: bool = True) -> MemoryEncoder:
        """Return self, still in eval mode."""
        del mode
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.scale.device

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return, per stage, the patch tokens (B, N, D) of CLIP's preprocessed images (B, 3, H, W).

        Those of a ViT are after its final norm, without class and register tokens.
        """
        return [each.flatten(2).mT for each in self.feature_maps(images)]

    @torch.no_grad()
    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return, per stage, the feature map (B, D, h, w) of CLIP's preprocessed images (B, 3, H, W)."""
        images = images.float() * self.scale.float() + self.shift.float()
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bicubic", antialias=True)
        indices = [layer - 1 for layer in self.layers]
        return self.network.forward_intermediates(
            images.to(self.scale), indices=indices, norm=self.is_vit, intermediates_only=True
        )

    def fingerprint(self) -> str:
        """Return in words what tells this encoder from others."""
        return f"layers {self.layers}, {self.side} pixels, weights {self._weights_hash(self.state_dict())}"


def _default_layers(strides: Sequence[int]) -> list[int]:
    last = {stride: number for number, stride in enumerate(strides, start=1) if stride in STRIDES}
    return sorted(last.values()) if len(set(strides)) > 1 and last else [len(strides)]


def second_encoder(
    backbone: str | None,
    pretrained: bool | str | Path,
    layers: Sequence[int] | None,
    image_size: int,
    statistics: Statistics,
) -> MemoryEncoder | None:
    """Return what these arguments of MemoryEncoder ask for; None without a backbone.

    Raises:
        ValueError: If there is no backbone, but something else of it is given.
    """
    if backbone is not None:
        return MemoryEncoder(backbone, pretrained, image_size, statistics, layers)
    if pretrained is not True or layers is not None:
        msg = "`memory_pretrained` and `memory_layers` need a `memory_backbone`, the name of a network of timm."
        raise ValueError(msg)
    return None


def beside(encoder: Encode, second: MemoryEncoder | None) -> Encode:
    """Return an encoder like the first, whose stages are followed by those of the second."""

    def encode(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding, stages = encoder(images)
        return embedding, [*stages, *second(images)] if second else stages

    return encode
