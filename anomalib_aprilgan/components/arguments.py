# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What values the arguments of AprilGan may have, checked before anything is read or downloaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from anomalib_aprilgan.data.released_adapters import from_checkpoint


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_tiles(value: Any) -> bool:
    return _is_whole(value, 1) and value <= MOST_TILES


MOST_TILES = 8  # in a row or column: an image costs 65 passes of the encoder then
FLAG = (_is_flag, "True or False")
TRAIN_WHOLE = "Adapters are trained on whole images: train without `tiles`, then give the checkpoint as `adapters`."
# By name: whether a value is right, and what is expected.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backbone": (_is_text, "text, an architecture of open_clip or the path of a configuration"),
    "pretrained": (lambda value: value is None or _is_text(value), "text, a tag of open_clip or a path, or None"),
    "image_size": (lambda value: _is_whole(value, 1), "a whole number, the height and width in pixels, such as 518"),
    "tiles": (
        lambda value: (
            _is_tiles(value) or (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_tiles, value)))
        ),
        f"the number of rows and columns, each 1 to {MOST_TILES}, such as 2 or [2, 3]",
    ),
    "aligned": FLAG,
    "layers": (
        lambda value: value is None or (isinstance(value, list | tuple) and all(map(_is_whole, value))),
        "a list of whole numbers, such as [6, 12, 18, 24], or None",
    ),
    "quick_gelu": FLAG,
    "adapters": (
        lambda value: value is None or _is_text(value) or isinstance(value, Path),
        "'auto', 'mvtecad', 'visa', the path of a file, or None to train new ones",
    ),
    "memory_backbone": (lambda value: value is None or _is_text(value), "the name of a network of timm, or None"),
    "memory_pretrained": (
        lambda value: _is_flag(value) or _is_text(value) or isinstance(value, Path),
        "True (timm's weights), the path of a file, or False (random weights)",
    ),
    "memory_layers": (
        lambda value: value is None or (isinstance(value, list | tuple) and all(map(_is_whole, value))),
        "a list of whole numbers, such as [12], or None",
    ),
    "k_shot": (_is_whole, "0 (zero-shot) or the number of reference images"),
    "few_shot_source": (
        lambda value: value is None or _is_text(value) or isinstance(value, list | tuple | Path),
        "a folder, a list of images, or None",
    ),
    "with_replacement": FLAG,
    "coreset_sampling_ratio": (
        lambda value: _is_number(value) and 0 < value <= 1,
        "a fraction of the patch tokens, 0 < ratio <= 1",
    ),
    "half_precision_memory": FLAG,
    "reference_rotations": (lambda value: _is_whole(value) and value in {1, 4, 8}, "1, 4 or 8 copies of each image"),
    "neighbourhoods": (
        lambda value: isinstance(value, list | tuple) and all(_is_whole(r, 1) and r % 2 for r in value) and bool(value),
        "a list of odd numbers of patches, such as [1, 3]",
    ),
    "reference_embeddings": FLAG,
    "score_fraction": (
        lambda value: _is_number(value) and 0 <= value <= 1,
        "a fraction of the map's values, 0 (the maximum) to 1 (the mean), such as 0.01",
    ),
    "part": (lambda value: value is None or isinstance(value, str), "the name of a part in the checkpoint, or None"),
    "seed": (lambda value: _is_whole(value) and value < 2**63, "a whole number from 0 on"),
    "prompts": (
        lambda value: value is None or _is_text(value) or isinstance(value, dict | Path),
        "the path of a YAML file, its content as a dictionary, or None",
    ),
    "pool": FLAG,
    "pool_source": (lambda value: value is None or _is_text(value) or isinstance(value, Path), "a folder, or None"),
    "learning_rate": (lambda value: _is_number(value) and value > 0, "a number above 0, such as 0.001"),
    "false_positive_rate": (
        lambda value: _is_number(value) and 0 <= value < 1,
        "a fraction of the normal images, 0 <= rate < 1",
    ),
}


def check_arguments(given: dict[str, Any]) -> None:
    """Check the arguments that are among ``given``; what else is there is not looked at.

    Raises:
        ValueError: If a value is of the wrong kind or out of range, naming the argument.
    """
    for name, (is_right, expected) in RULES.items():
        if name in given and not is_right(given[name]):
            msg = f"`{name}` must be {expected}; got {given[name]!r}."
            raise ValueError(msg)
    if "tiles" in given:
        check_tiles(given)
    if given.get("part") and not from_checkpoint.get():
        check_part(given)


def check_part(given: dict[str, Any]) -> None:
    """Check that nothing is given that a part of a checkpoint brings.

    Raises:
        ValueError: If it is, naming the arguments.
    """
    brought = [name for name in ("class_name", "k_shot", "few_shot_source", "pool_source", "pool") if given[name]]
    if brought:
        msg = f"`part` {given['part']!r} brings class name and references from the checkpoint: leave out {brought}."
        raise ValueError(msg)


def check_tiles(given: dict[str, Any]) -> None:
    """Check what `tiles` can't be combined with, among all arguments of AprilGan.

    Raises:
        ValueError: If it is so combined, naming the arguments.
    """
    tiles, copies = given["tiles"], given["reference_rotations"]
    rows, columns = tiles if isinstance(tiles, list | tuple) else (tiles, tiles)
    cut = rows * columns > 1
    for is_wrong, msg in (
        (given["aligned"] and not cut, "`aligned` compares tiles with those at the same place: give `tiles` too."),
        (
            given["aligned"] and copies > 1,
            "`aligned` is for parts that lie in one place: not with `reference_rotations`.",
        ),
        (
            rows != columns and copies > 1,
            "`reference_rotations` turns images: give as many rows as columns of `tiles`.",
        ),
        (cut and given["adapters"] is None, TRAIN_WHOLE),
        (cut and (given["pool"] or given["pool_source"]), "A pool compares whole images: give `tiles` or a pool."),
    ):
        if is_wrong:
            raise ValueError(msg)


def check_precision(precision: str) -> None:
    """Raise ValueError if a trainer's precision turns all weights to another type than images have."""
    if precision.endswith("-true") and precision != "32-true":
        msg = (
            f"`precision` {precision!r} turns weights to a type that images, softmax and scores do not have. "
            "Choose 'bf16-mixed' or '16-mixed', with which the encoder runs in half precision, or '32-true'."
        )
        raise ValueError(msg)
