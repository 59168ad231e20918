# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""How probable each state of a prompt ensemble is for an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.maps import LOGIT_SCALE, text_score
from anomalib_aprilgan.prompts import PromptEnsemble, mean_direction, text_features


@dataclass(frozen=True)
class StateProbabilities:
    """How probable the states are for one image.

    Args:
        text_score: The zero-shot image score, the probability of abnormal.
        states: Probability of each state, the most probable first.
    """

    text_score: float
    states: dict[str, float]


def state_probabilities(
    encoder: ClipEncoder, prompts: PromptEnsemble, class_name: str, images: Tensor
) -> list[StateProbabilities]:
    """Return for each image how probable the states of the prompts are.

    The softmax that the model takes over normal and abnormal is taken over all states here.

    Args:
        encoder: The frozen CLIP.
        prompts: The prompt ensemble.
        class_name: Word for the inspected object.
        images: Preprocessed, (B, 3, H, W).
    """
    normal, abnormal = prompts.prompts_about(class_name)
    embeddings = encoder.encode_text([*normal, *abnormal])
    features = mean_direction(embeddings.unflatten(0, (-1, len(prompts.templates))))
    embedding = torch.cat([encoder(image.unsqueeze(0))[0] for image in images]).float()
    probabilities = (LOGIT_SCALE * F.normalize(embedding, dim=-1) @ features.mT).softmax(dim=-1)
    classes = text_features(embeddings[: len(normal)], embeddings[len(normal) :])
    scores = [text_score(row, classes) for row in embedding.split(1)]  # as the model scores one image, to the last bit
    words = prompts.class_names.get(class_name, class_name)
    names = [state.replace("{}", words) for state in (*prompts.normal_states, *prompts.abnormal_states)]
    return [
        StateProbabilities(float(score), dict(sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])))
        for score, row in zip(scores, probabilities, strict=True)
    ]
