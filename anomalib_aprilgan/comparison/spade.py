# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""SPADE (arXiv:2005.02357) as an anomalib model: nearest normal images, then nearest pixels in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule, DynamicBufferMixin, MemoryBankMixin, TimmFeatureExtractor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

# 64 MiB of distances are held at once.
DISTANCES_PER_PASS = 2**24


class SpadeModel(DynamicBufferMixin, nn.Module):
    """A frozen CNN and the features of all normal images: one embedding per image, and features of its pixels.

    Args:
        backbone: timm architecture.
        layers: Those that describe pixels, then the one whose mean describes the image.
        pre_trained: Use the weights trained on ImageNet.
        n_images: Number K of nearest normal images.
        n_pixels: Number kappa of nearest pixels.
        sigma: Standard deviation of the Gaussian that smooths maps, in pixels.
    """

    embeddings: Tensor

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str],
        pre_trained: bool,
        n_images: int,
        n_pixels: int,
        sigma: float,
    ) -> None:
        super().__init__()
        self.layers = list(layers)
        self.extractor = TimmFeatureExtractor(backbone, self.layers, pre_trained=pre_trained).eval()
        self.n_images = n_images
        self.n_pixels = n_pixels
        self.sigma = sigma
        self.collected: list[dict[str, Tensor]] = []
        self.register_buffer("embeddings", torch.empty(0))
        for layer in self.layers[:-1]:
            self.register_buffer(buffer_name(layer), torch.empty(0))

    def fill(self) -> None:
        """Keep the features of the training images: embeddings (M, C), and maps (M, C, h, w) of each layer.

        Raises:
            ValueError: If there were no training images.
        """
        if not self.collected:
            msg = "SPADE has seen no training images: fit it with normal ones first."
            raise ValueError(msg)
        features = {layer: torch.cat([each[layer] for each in self.collected]) for layer in self.layers}
        self.collected.clear()
        self.embeddings = embedding(features[self.layers[-1]])
        for layer in self.layers[:-1]:
            setattr(self, buffer_name(layer), features[layer])

    def forward(self, images: Tensor) -> Tensor | InferenceBatch:
        """Image scores (B,) and anomaly maps (B, H, W) of images (B, 3, H, W); while training, their embeddings."""
        with torch.no_grad():
            features = self.extractor(images)
        if self.training:
            self.collected.append({layer: features[layer].detach() for layer in self.layers})
            return embedding(features[self.layers[-1]])
        distances, nearest = nearest_rows(embedding(features[self.layers[-1]]), self.embeddings, self.n_images)
        queries = pyramid([features[layer] for layer in self.layers[:-1]])
        maps = torch.stack([self._map(query, rows) for query, rows in zip(queries, nearest, strict=True)])
        maps = F.interpolate(maps.unsqueeze(1), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return InferenceBatch(pred_score=distances.mean(dim=1), anomaly_map=smooth(maps, self.sigma)[:, 0])

    def _map(self, query: Tensor, images: Tensor) -> Tensor:
        """Distances (h, w) of an image's pixel features (C, h, w) to the nearest pixels of some normal images (K,)."""
        gallery = pyramid([getattr(self, buffer_name(layer))[images] for layer in self.layers[:-1]])
        distances, _ = nearest_rows(query.flatten(1).mT, gallery.permute(0, 2, 3, 1).flatten(0, 2), self.n_pixels)
        return distances.mean(dim=1).view(query.shape[-2:])


def buffer_name(layer: str) -> str:
    """Name of the buffer for a layer's features; a dot, as in timm's "blocks.2", can't be in one."""
    return f"gallery_{layer.replace('.', '_')}"


def embedding(feature_map: Tensor) -> Tensor:
    """The mean (B, C) over the pixels of a feature map (B, C, h, w)."""
    return feature_map.mean(dim=(-2, -1))


def pyramid(feature_maps: Sequence[Tensor]) -> Tensor:
    """The layers' maps (B, C_i, h_i, w_i), resized to the first one's size and joined: (B, sum of C_i, h, w)."""
    size = feature_maps[0].shape[-2:]
    return torch.cat([F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in feature_maps], 1)


def nearest_rows(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return squared distances and indices (Q, k) of the nearest rows of each query.

    Args:
        queries: (Q, C).
        rows: (M, C).
        count: Number k of neighbours; at most M are returned.
    """
    chunk = max(1, DISTANCES_PER_PASS // len(rows))
    found = [
        torch.cdist(part, rows).square().topk(min(count, len(rows)), dim=1, largest=False)
        for part in queries.split(chunk)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, 1, H, W) blurred by a Gaussian as wide as four standard deviations to each side."""
    size = 2 * int(4 * sigma + 0.5) + 1
    return gaussian_blur(maps, [size, size], [sigma, sigma])


class Spade(MemoryBankMixin, AnomalibModule):  # type: ignore[misc]
    """SPADE: semantic pyramid anomaly detection (arXiv:2005.02357).

    Args:
        backbone: timm architecture.
        layers: Those that describe pixels, then the one that describes the image.
        pre_trained: Use the weights trained on ImageNet.
        image_size: Height and width in pixels to which images are resized. Differs: the paper resizes to 256 and takes
            the middle 224; here nothing is cropped.
        n_images: Number K of nearest normal images.
        n_pixels: Number kappa of nearest pixels.
        sigma: Standard deviation of the Gaussian that smooths maps, in pixels.
        pre_processor: Instance, or True for anomalib's with ``image_size``.
        post_processor: Instance, or True for anomalib's.
        evaluator: Instance, or True for anomalib's.
        visualizer: Instance, or True for anomalib's.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] = ("layer1", "layer2", "layer3", "layer4"),
        pre_trained: bool = True,
        image_size: int = 224,
        n_images: int = 50,
        n_pixels: int = 1,
        sigma: float = 4.0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if pre_processor is True:
            pre_processor = self.configure_pre_processor((image_size, image_size))
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model: SpadeModel = SpadeModel(backbone, layers, pre_trained, n_images, n_pixels, sigma)

    @staticmethod
    def configure_optimizers() -> None:
        """None: nothing is optimised."""
        return

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass over the training images."""
        return {"max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    @property
    def learning_type(self) -> LearningType:
        """ONE_CLASS: the normal training images are kept."""
        return LearningType.ONE_CLASS

    def fit(self) -> None:
        """Keep the collected features."""
        self.model.fill()

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        """Collect the features of normal images; a loss of zero, for Lightning."""
        del args, kwargs
        self.model(batch.image)
        return torch.zeros((), device=self.device, requires_grad=True)

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predictions."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())
