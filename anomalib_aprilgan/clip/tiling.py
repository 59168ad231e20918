# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Images cut into overlapping tiles, so that small defects are seen in full size, and the tiles' maps joined again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Neighbours share a quarter of their side.
OVERLAP = 4
# So many are encoded at once, or as many as there are images in the batch if these are more.
VIEWS_PER_PASS = 8
Encoder = Callable[[Tensor], tuple[Any, ...]]  # embeddings (B, E), and lists of patch tokens (B, N, D)


class Tiling(nn.Module):
    """Cuts images (B, 3, H, W) into T tiles of the encoder's size; joins the tiles' maps. One tile: does nothing.

    Differs from anomalib's Tiler, which joins tiles by their plain mean, so that maps have a step where a tile ends.

    Args:
        image_size: Height and width of a tile in pixels.
        tiles: Rows and columns of tiles; one number: of both.
    """

    window: Tensor
    shrink_rows: Tensor
    shrink_columns: Tensor

    def __init__(self, image_size: int, tiles: int | Sequence[int] = 1) -> None:
        super().__init__()
        rows, columns = map(int, tiles if isinstance(tiles, Sequence) else (tiles, tiles))
        overlap = image_size // OVERLAP
        self.image_size, self.step = image_size, image_size - overlap
        self.tiles, self.count = (rows, columns), rows * columns
        self.size = (image_size + (rows - 1) * self.step, image_size + (columns - 1) * self.step)
        self.passes = 1 if self.count == 1 else 1 + self.count  # of the encoder, for each image
        if self.count == 1:
            return
        fades = [_fades(number, image_size, overlap) for number in self.tiles]
        window = (fades[0][:, None, :, None] * fades[1][:, None]).flatten(0, 1)
        self.register_buffer("window", window, persistent=False)  # (T, image_size, image_size)
        # Matrices, because ONNX has no bicubic resizing with antialiasing that equals torch's.
        for name, length in zip(("shrink_rows", "shrink_columns"), self.size, strict=True):
            self.register_buffer(name, _shrinking(length, image_size), persistent=False)

    def encode(self, encoder: Encoder, images: Tensor) -> tuple[Any, ...]:
        """What the encoder says of images (B, 3, H, W): embeddings (B, E), and lists of patch tokens (B, N, D).

        Of several tiles: embeddings (B, 1 + T, E) of the whole image and its tiles, patch tokens (B * T, N, D) of the
        tiles.

        Raises:
            ValueError: If the images have another size than ``size``.
        """
        if self.count == 1:
            return encoder(images)
        views = self.views(images).flatten(0, 1)
        # The number of parts would fix the batch size of an export.
        parts = [views] if torch.compiler.is_exporting() else views.split(max(len(images), VIEWS_PER_PASS))
        embeddings, *lists = zip(*map(encoder, parts), strict=True)
        tokens = [[self._join(stage)[:, 1:].flatten(0, 1) for stage in zip(*each, strict=True)] for each in lists]
        return self._join(embeddings), *tokens

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """What was said of views, by image: (B, 1 + T, ...)."""
        return torch.cat(list(parts)).unflatten(0, (-1, self.passes))

    def views(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) as the encoder sees them (B, 1 + T, 3, image_size, image_size): whole, then tile by tile.

        Raises:
            ValueError: If the images have another size than ``size``.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.size):
            msg = (
                f"Expected preprocessed images (B, 3, {self.size[0]}, {self.size[1]}) for {self.tiles[0]} x "
                f"{self.tiles[1]} tiles, got {tuple(images.shape)}: resize them with the model's pre-processor."
            )
            raise ValueError(msg)
        tiles = images.unfold(2, self.image_size, self.step).unfold(3, self.image_size, self.step)
        whole = self.shrink_rows @ images @ self.shrink_columns.mT
        return torch.cat([whole.unsqueeze(1), tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)], dim=1)

    def blend(self, tile_maps: Tensor) -> Tensor:
        """Maps (B, H, W) of images from those of their tiles (B * T, image_size, image_size).

        A value is the mean of the tiles that have it; a tile's weight falls to 0 toward its neighbours.
        """
        if self.count == 1:
            return tile_maps
        weighted = tile_maps.unflatten(0, (-1, self.count)) * self.window
        return F.fold(weighted.flatten(2).mT, self.size, self.image_size, stride=self.step)[:, 0]


def _fades(number: int, length: int, overlap: int) -> Tensor:
    """Weights (number, length) of tiles in a row, 1 but where they overlap; those of two neighbours add up to 1."""
    rise = torch.sin(torch.pi / 2 * (torch.arange(overlap) + 0.5) / overlap) ** 2
    fades = torch.ones(number, length)
    fades[1:, :overlap] = rise
    fades[:-1, length - overlap :] = 1 - rise
    return fades


def _shrinking(length: int, size: int) -> Tensor:
    """The weight (size, length) of each of ``length`` pixels in each of ``size``: bicubic with antialiasing."""
    unit = torch.eye(length)[None, None]
    return F.interpolate(unit, size=(size, length), mode="bicubic", antialias=True)[0, 0]
