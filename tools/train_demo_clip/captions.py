# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Captions: the library's prompt ensemble with more wordings, about the thing in the picture."""

from __future__ import annotations

from damage import Rng

from anomalib_aprilgan.prompts import PromptEnsemble

ENSEMBLE = PromptEnsemble.from_yaml()
NORMAL = [*ENSEMBLE.normal_states, "intact {}", "clean {}", "new {}", "{} in good condition"]
ABNORMAL = [
    *ENSEMBLE.abnormal_states, "defective {}", "scratched {}", "stained {}", "{} with a scratch", "{} with a stain",
    "{} with a hole", "dirty {}", "{} with a crack",
]  # fmt: skip
TEMPLATES = [*ENSEMBLE.templates, "{}", "a {}.", "an image of a {}.", "a picture of the {}.", "a view of the {}."]
GENERIC = ["object", "surface", "item", "thing", "part", "sample", "product", "material", "texture", "workpiece"]
# Words that say nothing about the picture, so that any word may stand in a prompt. Among them are the names of
# categories that people try first, the demo's included: their pictures are not seen in training, the words are.
ARBITRARY = [
    "bottle", "cable", "capsule", "carpet", "grass", "grid", "hazelnut", "leather", "metal nut", "moon", "pill",
    "retina", "screw", "stars", "toothbrush", "transistor", "wood", "zipper", "candle", "cashew", "chewing gum",
    "macaroni", "pipe", "glass", "bracket", "bearing", "sky", "skin", "lawn", "stone", "glove", "shoe", "door", "lens",
    "wafer", "rail", "valve", "spring", "label", "box", "bread", "apple", "leaf", "road", "wheel", "panel", "bag",
]  # fmt: skip
EVEN_SHARE = 0.75  # of the ensemble's own states among those of captions


def choose_word(name: str, rng: Rng) -> str:
    """What a caption calls the thing: mostly its name, sometimes a general or an arbitrary word."""
    choice = rng.random()
    if choice < 0.2:
        return str(rng.choice(GENERIC))
    return str(rng.choice(ARBITRARY)) if choice < 0.4 else name


def caption(word: str, abnormal: bool, rng: Rng) -> str:
    """A sentence about the thing, in a normal or an abnormal state."""
    own, more = (ENSEMBLE.abnormal_states, ABNORMAL) if abnormal else (ENSEMBLE.normal_states, NORMAL)
    states = own if rng.random() < EVEN_SHARE else more
    state = str(rng.choice(states)).replace("{}", word)
    return str(rng.choice(TEMPLATES)).replace("{}", state)
