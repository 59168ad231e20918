# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an encoder is configured with: open_clip's description of the network, image statistics, tapped layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
N_STAGES = 4
# A small CLIP for demonstrations, which open_clip does not know; trained by tools/train_demo_clip.
DEMO = "demo"
DEMO_CONFIG = Path(__file__).with_name("demo_clip.json")


def clip_config(backbone: str) -> dict[str, Any]:
    """Return the open_clip configuration of ``backbone``: a registered architecture, a ``.json`` file or "demo".

    Raises:
        ValueError: If the name is unknown, the file is not an open_clip configuration, or the model is a CoCa.
    """
    if backbone == DEMO or backbone.endswith(".json"):
        config = _read_config(DEMO_CONFIG if backbone == DEMO else Path(backbone))
    else:
        config = open_clip.get_model_config(backbone)
        if config is None:
            msg = (
                f"Unknown `backbone` {backbone!r}: expected an open_clip architecture (open_clip.list_models() names "
                f"them), the path of an open_clip model configuration ending in .json, or {DEMO!r}."
            )
            raise ValueError(msg)
    if "multimodal_cfg" in config:
        msg = f"`backbone` {backbone!r} is a CoCa: its captioning tower has no place here. Use a CLIP of the same size."
        raise ValueError(msg)
    return config


def image_statistics(backbone: str, pretrained: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per RGB channel, for images in [0, 1], that the weights were trained with."""
    tag = open_clip.get_pretrained_cfg(backbone, pretrained) if pretrained else {}
    return tag.get("mean") or IMAGE_MEAN, tag.get("std") or IMAGE_STD


def checked_layers(layers: Sequence[int] | None, depth: int, backbone: str) -> list[int]:
    """Return the numbers of the tapped layers.

    Args:
        layers: 1-based numbers, rising; None: the ends of four equal parts.
        depth: Number of layers of the image tower.
        backbone: Its name, for messages.

    Raises:
        ValueError: If a layer does not exist or the numbers do not rise.
    """
    if layers is None:
        return sorted({max(1, depth * stage // N_STAGES) for stage in range(1, N_STAGES + 1)})
    layers = list(layers)
    if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
        msg = f"`layers` {layers} of {backbone!r}: expected different, rising numbers from 1 to {depth} (1-based)."
        raise ValueError(msg)
    return layers


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"`backbone` {str(path)!r} is not a file. Give the path of an open_clip model configuration."
        raise ValueError(msg)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("model_cfg", config)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - config.keys()
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        msg = f"`backbone` {str(path)!r} is not an open_clip model configuration: {error}."
        raise ValueError(msg) from error
    if missing:
        msg = f"`backbone` {str(path)!r} is not an open_clip model configuration: it has no {sorted(missing)}."
        raise ValueError(msg)
    return config
