# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of the wrong kind or out of range: named at once."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components.arguments import RULES, check_arguments

WRONG = {
    "backbone": [None, ("ViT-L-14-336", "openai"), ""],
    "pretrained": [1, "", ["openai"]],
    "image_size": [(518, 518), "518", 518.0, 0, -14, None, True],
    "layers": [6, "6, 12", [6, "12"], ["6"], [6.0], {6: 12}, [None]],
    "quick_gelu": ["no", 1, None],
    "adapters": [0, ["mvtecad"], "", True],
    "class_name": ["", " ", "\u200b", "\0", 5, ["bolt"], ("bolt",)],
    "k_shot": ["4", 1.5, -1, None, True, (4,)],
    "few_shot_source": [4, True, ""],
    "with_replacement": ["yes", 0],
    "coreset_sampling_ratio": ["0.1", 0, 1.1, None, (0.1,), float("nan"), True],
    "half_precision_memory": ["yes", None],
    "reference_rotations": [2, "4", None],
    "neighbourhoods": [[], [2], 3, ["1"], None],
    "reference_embeddings": ["yes", 1],
    "tiles": [0, -1, 9, 2.0, "2", None, True, [2], [2, 0], [1, 9], [2, 2, 2], [2.0, 2], {1: 2}],
    "aligned": ["yes", 1, None],
    "memory_backbone": ["", 5, True, ["resnet18"]],
    "memory_pretrained": [None, "", 1],
    "memory_layers": [12, "12", ["12"], [1.0], {1: 2}],
    "score_fraction": ["0.01", -0.1, 1.1, None, float("nan"), True, [0.01]],
    "pool": ["true", 1, None],
    "pool_source": ["", 3, ["folder"]],
    "part": [1, True, ["nut"]],
    "seed": ["0", 0.5, -1, None, (1, 2), 2**64],
    "prompts": [["{}"], 5, ""],
    "learning_rate": ["0.001", 0, -1e-3, None, (1e-3,), float("nan"), float("inf")],
    "false_positive_rate": ["0.01", 1, -0.1, None, (0.01,), float("nan"), [0.01]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"(?s)`{name}` must be .*; got "):
        AprilGan(**{"backbone": "demo", "pretrained": None, "image_size": 224, "adapters": None, name: value})


def test_every_argument_has_a_rule() -> None:
    components = {"pre_processor", "post_processor", "evaluator", "visualizer"}  # anomalib looks at these
    assert {*inspect.signature(AprilGan).parameters} - components == {*RULES, "class_name"} == {*WRONG}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aligned": True}, "give `tiles` too"),
        ({"tiles": [1, 1], "aligned": True}, "give `tiles` too"),
        ({"tiles": 2, "aligned": True, "reference_rotations": 4}, "not with `reference_rotations`"),
        ({"tiles": [2, 3], "reference_rotations": 8}, "as many rows as columns of `tiles`"),
        ({"tiles": 2, "adapters": None}, "train without `tiles`"),
        ({"tiles": 2, "pool": True}, "give `tiles` or a pool"),
        ({"tiles": (1, 2), "pool_source": "parts"}, "give `tiles` or a pool"),
    ],
)
def test_what_tiles_can_not_be_combined_with(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AprilGan(**{"backbone": "demo", "pretrained": None, "image_size": 224, "adapters": "demo", **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": np.int64(518), "k_shot": np.int32(2), "seed": np.int64(3), "layers": (6, 12)},
        {"learning_rate": np.float32(0.1), "false_positive_rate": 0, "coreset_sampling_ratio": 1},
        {"coreset_sampling_ratio": torch.tensor(0.5).item(), "false_positive_rate": 0.0},
    ],
)
def test_numbers_of_other_libraries_are_taken(arguments: dict) -> None:
    check_arguments(arguments)
