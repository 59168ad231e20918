# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Several kinds of parts in one checkpoint, each with class name, references and thresholds of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from anomalib_aprilgan.adapters import PREFIX_IN_CHECKPOINT

KEY = "april_gan"
PARTS = "parts"
OWN = ""  # instead of a part's name: the checkpoint's own target, which need not be said
# What of a checkpoint is a part's; besides, of our section, all. Adapters and the rest are common to all parts.
OF_PART = ("callbacks", "anomalib_post_processor_config")


def part_names(content: dict[str, Any]) -> list[str]:
    """The names of the parts in a checkpoint."""
    return [*content[KEY].get(PARTS, {})]


def which_there_are(names: Iterable[str]) -> str:
    """The parts of a checkpoint, as messages tell them."""
    listed = ", ".join(names)
    return f"its parts are: {listed}" if listed else "it has none (aprilgan parts add)"


def check_part_name(name: str) -> None:
    """Check that a name can be that of a part, and so of a folder.

    Raises:
        ValueError: If it can't.
    """
    if not re.fullmatch(r"[^/\\.\s][^/\\]*", name):
        msg = f"A part is named like a folder, such as bolt: no slash, no dot or space at the beginning; got {name!r}."
        raise ValueError(msg)


def part_of(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The checkpoint that holds one of the parts alone.

    Raises:
        ValueError: If there is no such part.
    """
    parts = content[KEY].get(PARTS, {})
    if name not in parts:
        msg = f"There is no part {name!r} in the checkpoint; {which_there_are(parts)}."
        raise ValueError(msg)
    common = {key: value for key, value in content["state_dict"].items() if _is_common(key)}
    return {**content, **parts[name], "state_dict": {**common, **parts[name]["state_dict"]}}


def with_part(content: dict[str, Any], name: str, single: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with a part, new or changed.

    Args:
        content: Of the checkpoint.
        name: Of the part.
        single: Content of a checkpoint of the same model that holds the part alone.
    """
    part = {key: single[key] for key in OF_PART if key in single}
    part["state_dict"] = {key: value for key, value in single["state_dict"].items() if not _is_common(key)}
    part[KEY] = {key: value for key, value in single[KEY].items() if key != PARTS}
    return with_parts(content, {**content[KEY].get(PARTS, {}), name: part})


def with_parts(content: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with these parts and no others."""
    ours = {key: value for key, value in content[KEY].items() if key != PARTS}
    return {**content, KEY: {**ours, PARTS: parts} if parts else ours}


def _is_common(name: str) -> bool:
    return name.startswith(PREFIX_IN_CHECKPOINT)
