# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Text features of a class name: all prompts about it, encoded once and kept on disk."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_aprilgan.clip.configuration import clip_config
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.text_cache import cached
from anomalib_aprilgan.clip.tokenizer import LongPromptError, Tokenizer
from anomalib_aprilgan.prompts import PromptEnsemble, check_class_name, text_features


def class_text_features(encoder: ClipEncoder, prompts: PromptEnsemble, class_name: str) -> Tensor:
    """Return the text features (2, E) of a class name, on the encoder's device, in float32.

    Args:
        encoder: The frozen CLIP.
        prompts: The prompt ensemble.
        class_name: Word for the inspected object.

    Raises:
        ValueError: If a prompt is too long, naming the entries that it is made of.
        RuntimeError: If the encoder was exported without its text tower.
    """
    normal, abnormal = prompts.prompts_about(class_name)
    device = encoder.device

    def encode() -> Tensor:
        try:
            # Without autocast: a cosine in half precision is too coarse for softmax(100 x).
            with torch.autocast(device.type, enabled=False):
                embeddings = encoder.encode_text([*normal, *abnormal])
        except LongPromptError as error:
            raise ValueError(_too_long(prompts, class_name, error)) from error
        return text_features(embeddings[: len(normal)], embeddings[len(normal) :])

    network = [encoder.fingerprint(text_only=True), encoder.quick_gelu, encoder.text_config]
    return cached(repr([network, device.type, normal, abnormal]), encoder.embed_dim, encode).to(device)


def checked_prompts(prompts: PromptEnsemble, class_name: str, backbone: str) -> tuple[list[str], list[str]]:
    """Return all normal and all abnormal prompts about a class name, without loading the encoder.

    Args:
        prompts: The prompt ensemble.
        class_name: Word for the inspected object.
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".

    Raises:
        ValueError: If the class name is empty or a prompt is longer than the context of the backbone's text tower.
    """
    check_class_name(class_name)
    normal, abnormal = prompts.prompts_about(class_name)
    try:
        Tokenizer(clip_config(backbone)["text_cfg"])([*normal, *abnormal])
    except LongPromptError as error:
        raise ValueError(_too_long(prompts, class_name, error)) from error
    return normal, abnormal


def _too_long(prompts: PromptEnsemble, class_name: str, error: LongPromptError) -> str:
    """Return in words what to shorten when a prompt is too long."""
    words = class_name if len(class_name) <= 60 else f"{class_name[:60]}..."
    return (
        f"The prompt of {prompts.origin(class_name, error.prompt)} about {words!r} has {error.size}: shorten the "
        "class name, the state or the template."
    )
