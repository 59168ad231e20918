# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an encoder is configured with: open_clip's description of the network, image statistics, tapped layers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip

logger = logging.getLogger(__name__)

# A folder as open_clip takes it, and what lies in it.
LOCAL, CONFIG_FILE = "local-dir:", "open_clip_config.json"
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
N_STAGES = 4
# Of the stages of a CNN that are tapped. A finer one has 4 times the tokens, and memory banks 16 times the cost.
STRIDES = (4, 8, 16, 32)
# A small CLIP that open_clip does not know, and its adapters; trained by tools/train_demo_clip.
DEMO = "demo"
DEMO_CONFIG = Path(__file__).with_name("demo_clip.json")
DEMO_LAYERS = (3, 4, 5)  # strides 8, 16 and 32
DEMO_ADAPTERS = Path(__file__).with_name("demo_adapters.pth")


def clip_config(backbone: str | dict[str, Any]) -> dict[str, Any]:
    """Return the open_clip configuration of ``backbone``: a registered architecture, a ``.json`` file or "demo".

    ``local-dir:`` and the path of a folder stand for the configuration in it; a configuration for itself.

    Raises:
        ValueError: If the name is unknown, the file is not an open_clip configuration, or the model is a CoCa.
    """
    if isinstance(backbone, dict):
        return backbone
    folder = local_folder(backbone) if backbone.startswith(LOCAL) else None
    if backbone == DEMO or backbone.endswith(".json") or folder:
        config = _read_config(DEMO_CONFIG if backbone == DEMO else folder / CONFIG_FILE if folder else Path(backbone))
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
    """Return mean and standard deviation per RGB channel, for images in [0, 1], that the weights were trained with.

    Those of a tag are open_clip's. A file has those of the ``preprocess_cfg`` in the configuration beside it or
    given as ``backbone``, else those that all tags of the architecture share, else OpenAI's, with a warning.

    Args:
        backbone: Architecture, path of a configuration, folder, or "demo".
        pretrained: Tag, path of a file or folder, "demo", or None.
    """
    openai = (IMAGE_MEAN, IMAGE_STD)
    if pretrained is None or pretrained == DEMO:
        return openai
    tag = open_clip.get_pretrained_cfg(backbone, pretrained)
    if tag:
        return _mean_and_std(tag) or openai
    files = [local_folder(pretrained) or Path(pretrained).parent, *([] if backbone == DEMO else [Path(backbone)])]
    written = [_mean_and_std(_read_preprocessing(path)) for path in files]
    tags = [open_clip.get_pretrained_cfg(backbone, name) for name in open_clip.list_pretrained_tags_by_model(backbone)]
    shared = {_mean_and_std(each) or openai for each in tags}
    known = next((each for each in written if each), None) or (shared.pop() if len(shared) == 1 else None)
    if known is None:
        logger.warning(
            "It is not known which mean and standard deviation the weights %s were trained with: OpenAI's are used. "
            "Put open_clip's open_clip_config.json with a `preprocess_cfg` beside the file if they are others.",
            pretrained,
        )
        return openai
    logger.info("Images are normalised with mean %s and standard deviation %s.", *known)
    return known


def local_folder(name: str) -> Path | None:
    """Return the folder that ``name`` stands for, a path with or without open_clip's "local-dir:", or None."""
    folder = Path(name.removeprefix(LOCAL))
    return folder if folder.is_dir() else None


def _mean_and_std(facts: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if facts.get("mean") is None or facts.get("std") is None:
        return None
    return tuple(facts["mean"]), tuple(facts["std"])


def _read_preprocessing(path: Path) -> dict[str, Any]:
    """Return ``preprocess_cfg`` of a configuration or of the one in a folder; empty if there is none."""
    path = path / CONFIG_FILE if path.is_dir() else path
    if path.suffix != ".json" or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8")).get("preprocess_cfg", {})


def default_layers(strides: Sequence[int]) -> list[int]:
    """Return the numbers of the layers to tap: the last of each stride from 4 to 32, or the ends of four equal parts.

    Args:
        strides: Pixels per token of each layer. Those of a ViT are all the same.
    """
    last = {stride: number for number, stride in enumerate(strides, start=1) if stride in STRIDES}
    if len(set(strides)) > 1 and last:
        return sorted(last.values())
    return sorted({max(1, len(strides) * stage // N_STAGES) for stage in range(1, N_STAGES + 1)})


def checked_layers(
    layers: Sequence[int] | None, strides: Sequence[int], backbone: object, argument: str = "layers"
) -> list[int]:
    """Return the numbers of the tapped layers.

    Args:
        layers: 1-based numbers, rising; None: ``default_layers``.
        strides: Pixels per token of each layer of the image tower.
        backbone: Its name, for messages.
        argument: That gave the layers, for messages.

    Raises:
        ValueError: If a layer does not exist or the numbers do not rise.
    """
    depth = len(strides)
    if layers is None and backbone == DEMO:
        return list(DEMO_LAYERS)
    if layers is None:
        return default_layers(strides)
    layers = list(layers)
    if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
        msg = f"`{argument}` {layers} of {backbone!r}: expected different, rising numbers from 1 to {depth} (1-based)."
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
