# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: images to an embedding and patch tokens, prompts to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anomalib_aprilgan.clip.configuration import checked_layers, clip_config
from anomalib_aprilgan.clip.fingerprint import WeightsHash
from anomalib_aprilgan.clip.tokenizer import Tokenizer
from anomalib_aprilgan.clip.towers import tower_of
from anomalib_aprilgan.clip.weights import find_weights, load_weights
from anomalib_aprilgan.compat.open_clip import build_clip, resize_timm_trunk, use_fused_attention
from anomalib_aprilgan.compat.torch import SkipInitialisation

# Encoding the 420 prompts of one category at once would need more memory than the images do.
PROMPTS_PER_PASS = 128
VISUAL = "visual."  # names of the image tower's weights begin so


class Encoded(NamedTuple):
    """What the frozen encoders say of images, to be scored for any number of targets.

    Args:
        embedding: Image embeddings (B, E); (B, 1 + T, E) of images and their tiles, if images are cut into tiles.
        stages: Patch tokens (B, N, D) of each of CLIP's stages; (B * T, N, D) of the tiles.
        memory_stages: Those that are compared with memory banks and pools. Empty: CLIP's are.
    """

    embedding: Tensor
    stages: list[Tensor]
    memory_stages: Sequence[Tensor] = ()

    @property
    def compared(self) -> Sequence[Tensor]:
        """Patch tokens (B, N, D) of each stage that is compared with memory banks and pools."""
        return self.memory_stages or self.stages


class ClipEncoder(nn.Module):
    """A frozen CLIP that also returns the patch tokens of some of its layers.

    It is always in eval mode, and never computes gradients.

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo", a small CNN. A
            configuration itself if ``pretrained`` is None.
        pretrained: open_clip tag, path of a checkpoint (TorchScript, state dict or safetensors), "demo" for the
            weights of the backbone "demo", or None for random weights, which are the same every time, so that a
            checkpoint without them can be loaded again.
        image_size: Height and width of the images in pixels.
        layers: 1-based numbers of the tapped layers (blocks of a ViT, stages of a CNN). None: four equal stages; those
            of a CNN have 4, 8, 16 and 32 pixels per token.
        quick_gelu: Use the sigmoid approximation of GELU. Differs: OpenAI's weights were trained with it, but the
            authors' implementation runs them with plain GELU at sizes other than the native one.

    Raises:
        ValueError: If the backbone is unknown, a layer does not exist, the size does not fit the patches or the
            weights do not fit the backbone.
        FileNotFoundError: If the weights are neither a tag of the backbone nor a file.
        ConnectionError: If the weights of a tag are not cached and cannot be downloaded.
    """

    clip: Any

    def __init__(
        self,
        backbone: str | dict[str, Any] = "ViT-L-14-336",
        pretrained: str | None = "openai",
        image_size: int = 518,
        layers: Sequence[int] | None = None,
        quick_gelu: bool = False,
    ) -> None:
        super().__init__()
        config = clip_config(backbone)
        with nullcontext() if pretrained is None else SkipInitialisation():
            self.clip = build_clip(config, image_size, quick_gelu)
        use_fused_attention(self.clip.visual)
        tower = tower_of(self.clip.visual)
        self.layers = checked_layers(layers, tower.strides, backbone)
        if misfit := tower.misfit(image_size):
            msg = f"`image_size` {image_size} {misfit} (`backbone` {backbone!r})."
            raise ValueError(msg)
        if pretrained is not None:
            load_weights(self.clip, find_weights(str(backbone), pretrained), str(backbone))
        resize_timm_trunk(self.clip.visual, image_size)
        self.image_size = image_size
        self.embed_dim: int = config["embed_dim"]
        self.widths = [tower.width(layer) for layer in self.layers]
        self.quick_gelu: bool = quick_gelu or config.get("quick_gelu", False)
        self.text_config: dict[str, Any] = config["text_cfg"]
        self._tokenizer: Tokenizer | None = None
        self._weights_hash = WeightsHash()
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ClipEncoder:
        """Return self, still in eval mode: batch statistics and dropout of a frozen network must not change."""
        del mode
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.clip.parameters()).device

    @torch.no_grad()  # not inference_mode: a training keeps the tokens for its backward pass
    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (B, E) and, per stage, the patch tokens (B, N, D) of preprocessed images (B, 3, H, W).

        Tokens are taken after the block: raw, without final norm or projection; the class token is dropped. Those of
        a CNN are its feature maps, row by row.

        Raises:
            ValueError: If the images have another size than the encoder.
        """
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            msg = (
                f"Expected preprocessed images (B, 3, {size}, {size}), got {tuple(images.shape)}: "
                "resize them with the model's pre-processor, or make the model with another `image_size`."
            )
            raise ValueError(msg)
        return tower_of(self.clip.visual).encode(images, self.layers)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (P, E), not normalised, of P prompts.

        Raises:
            LongPromptError: If a prompt is longer than the text tower's context.
            RuntimeError: If the model was exported.
        """
        if not hasattr(self.clip, "encode_text"):
            msg = "This model was exported without its text tower: export again with another class name."
            raise RuntimeError(msg)
        self._tokenizer = self._tokenizer or Tokenizer(self.text_config)  # made late: some are downloaded
        tokens = self._tokenizer(prompts).to(self.device)
        return torch.cat([self.clip.encode_text(chunk) for chunk in tokens.split(PROMPTS_PER_PASS)])

    def fingerprint(self, text_only: bool = False) -> str:
        """Return a hash of all weights, or of those outside the image tower: the same for the same network."""
        state = self.clip.state_dict()
        return self._weights_hash({name: state[name] for name in state if not (text_only and name.startswith(VISUAL))})
