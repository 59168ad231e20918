# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a prompt ensemble says about a class name, and which of its states images lean to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan.clip.encoder import LongSentenceError, check_lengths, clip_config, make_tokenizer
from anomalib_aprilgan.maps import LOGIT_SCALE, text_score
from anomalib_aprilgan.prompts import PromptEnsemble, check_class_name, mean_direction, text_features
from anomalib_aprilgan.torch_model import AprilGanModel, too_long


@dataclass(frozen=True)
class Leaning:
    """Where an image lies among the states.

    Args:
        text_score: The model's zero-shot image score, the probability of abnormal.
        states: Probability of each state, the most probable first.
    """

    text_score: float
    states: dict[str, float]


def checked_sentences(prompts: PromptEnsemble, class_name: str, backbone: str) -> tuple[list[str], list[str]]:
    """All normal and all abnormal sentences about ``class_name``.

    Raises:
        ValueError: If the class name is empty or the backbone's text tower has no room for one of them.
    """
    check_class_name(class_name)
    normal, abnormal = prompts.sentences(class_name)
    text_config = clip_config(backbone)["text_cfg"]
    try:
        check_lengths([*normal, *abnormal], make_tokenizer(text_config), text_config)
    except LongSentenceError as error:
        raise ValueError(too_long(prompts, class_name, error)) from error
    return normal, abnormal


def leanings(model: AprilGanModel, class_name: str, images: Tensor) -> list[Leaning]:
    """Where preprocessed images (B, 3, H, W) lie among the states of the model's prompts about ``class_name``.

    The softmax that the model takes over normal and abnormal is taken over all states here.
    """
    prompts = model.prompts
    normal, abnormal = prompts.sentences(class_name)
    sentences = model.encoder.encode_text([*normal, *abnormal])
    features = mean_direction(sentences.unflatten(0, (-1, len(prompts.templates))))
    embedding = torch.cat([model.encoder(image.unsqueeze(0))[0] for image in images]).float()
    probabilities = (LOGIT_SCALE * F.normalize(embedding, dim=-1) @ features.mT).softmax(dim=-1)
    states = text_features(sentences[: len(normal)], sentences[len(normal) :])
    scores = [text_score(row, states) for row in embedding.split(1)]  # as the model scores one image, to the last bit
    words = prompts.class_names.get(class_name, class_name)
    names = [state.replace("{}", words) for state in (*prompts.normal_states, *prompts.abnormal_states)]
    return [
        Leaning(float(score), dict(sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])))
        for score, row in zip(scores, probabilities, strict=True)
    ]
