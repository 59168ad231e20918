# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an AprilGan checkpoint holds besides Lightning's content, and what it must agree with when it is loaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomalib_aprilgan.torch_model import AprilGanModel

KEY = "april_gan"
VERSION = 1
ENCODER = "model.encoder."
MEMORY = "model.memory.stage"


def describe(model: AprilGanModel) -> dict[str, Any]:
    """The facts about a model that its adapters, text features and memory banks depend on, as plain values."""
    encoder = model.encoder
    return {
        "image_size": model.image_size,
        "layers": list(encoder.layers),
        "stage_widths": list(encoder.widths),
        "embed_dim": encoder.embed_dim,
        "clip_weights": encoder.fingerprint(),
        "prompts": model.prompts.digest(),
    }


def check(checkpoint: dict[str, Any], model: AprilGanModel) -> dict[str, Any]:
    """Our part of the checkpoint, after a check that it was made with a model like this one.

    Raises:
        ValueError: If it is not a checkpoint of AprilGan, is newer than this package, or was made with another
            backbone, image size, layers or prompts.
    """
    ours = checkpoint.get(KEY)
    if ours is None:
        msg = "This is not a checkpoint of AprilGan. To load adapters out of another file, give its path as `adapters`."
        raise ValueError(msg)
    if ours["version"] > VERSION:
        msg = f"The checkpoint has version {ours['version']}, this anomalib-aprilgan reads up to {VERSION}: upgrade it."
        raise ValueError(msg)
    wanted = describe(model)
    differences = [f"{name}: {ours['model'].get(name)} there, {wanted[name]} here" for name in wanted]
    differences = [
        text for text, name in zip(differences, wanted, strict=True) if ours["model"].get(name) != wanted[name]
    ]
    if differences:
        msg = (
            "The checkpoint was made with another model than the one that loads it: "
            + "; ".join(differences)
            + ". Give the model the same arguments (backbone, pretrained, image_size, layers, quick_gelu, prompts)."
        )
        raise ValueError(msg)
    return ours


def without_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict less the frozen CLIP, which would make gigabytes of megabytes."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(ENCODER)}


def with_encoder(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict completed by the frozen CLIP of the loading model."""
    return {**{name: tensor for name, tensor in own.items() if name.startswith(ENCODER)}, **state}


def memory_rows(state: dict[str, Tensor]) -> list[int]:
    """Rows of each stage's memory bank in a state dict."""
    names = sorted((name for name in state if name.startswith(MEMORY)), key=lambda name: int(name.removeprefix(MEMORY)))
    return [len(state[name]) for name in names]
