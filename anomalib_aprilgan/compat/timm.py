# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A workaround for timm and anomalib, seen in timm 1.0.9 to 1.0.31 and anomalib 2.7.0."""

from __future__ import annotations

from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn


def set_input_size(network: Any, side: int) -> None:
    """Bring a network of timm to square images of ``side`` pixels, with positions resized without antialiasing.

    timm resizes them with antialiasing, until anomalib's AnomalyDINO replaces that function in the whole process
    (``_disable_pos_embed_antialiasing``). A result must not depend on which models were made before; ours equals
    AnomalyDINO's.
    """
    grid, positions = network.patch_embed.grid_size, getattr(network, "pos_embed", None)
    network.set_input_size(img_size=(side, side))
    if positions is not None and network.patch_embed.grid_size != grid:
        prefix = 0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens
        resized = resample_abs_pos_embed(positions, network.patch_embed.grid_size, grid, prefix, antialias=False)
        network.pos_embed = nn.Parameter(resized)
