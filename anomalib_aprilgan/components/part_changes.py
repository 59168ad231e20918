# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Parts of a checkpoint that are added, listed, dropped and exported, in one file that is whole at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from anomalib_aprilgan.components.parts import (
    KEY,
    OWN,
    PARTS,
    check_part_name,
    part_names,
    part_of,
    with_part,
    with_parts,
)
from anomalib_aprilgan.components.reference_changes import (
    apply_change,
    changed_content,
    check_reference_files,
    describe_thresholds,
    existing,
    known_references,
    lock_of,
    read_checkpoint,
    write,
)
from anomalib_aprilgan.components.reference_plans import NO_TIME, Change, replaced
from anomalib_aprilgan.target import CHANGED, References


def add_part(
    model_class: Any, path: str | Path, name: str, sources: Sequence[Path], class_name: str | None = None
) -> list[str]:
    """Add a part to a checkpoint: what a model of this class name with these references is.

    Args:
        model_class: AprilGan.
        path: Of the checkpoint.
        name: Of the part.
        sources: Its references, files or folders. Empty: zero-shot.
        class_name: Word for it in the prompts. None: its name.

    Returns:
        What was done, in lines.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it can't be read, has a part of this name, or an image can't be used.
    """
    check_part_name(name)
    path = existing(path)
    with FileLock(lock_of(path)):
        content = read_checkpoint(model_class, path)
        if name in part_names(content):
            how = f"change its references (--part {name}), or drop it first"
            msg = f"There is a part {name!r} already: {how}."
            raise ValueError(msg)
        change = replaced(sources)(References()) if sources else Change([], References(source=CHANGED), [])
        check_reference_files(change.references)
        module = model_class.load_from_checkpoint(path, part=OWN).eval()
        module.request = replace(module.request, class_name=class_name or name)
        apply_change(module, change)
        write(module, with_part(content, name, changed_content(module, content)), path)
    return [
        *change.notes,
        f"Part {name!r}, class name {module.model.class_name!r}",
        f"{len(change.references.paths)} references: {change.references}",
        f"Thresholds: {describe_thresholds(module)}",
    ]


def drop_part(model_class: Any, path: str | Path, name: str) -> None:
    """Drop a part from a checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it can't be read, or there is no such part.
    """
    path = existing(path)
    with FileLock(lock_of(path)):
        content = read_checkpoint(model_class, path)
        part_of(content, name)
        parts = {other: part for other, part in content[KEY][PARTS].items() if other != name}
        write(model_class, with_parts(content, parts), path)


def table_of_parts(model_class: Any, path: str | Path) -> str:
    """The parts of a checkpoint, in lines.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it can't be read.
    """
    content = read_checkpoint(model_class, existing(path))
    rows = []
    for name in part_names(content):
        part = part_of(content, name)
        known = known_references(part)
        rows.append((name, part[KEY]["target"]["class_name"], len(known.paths), max(known.added, default=NO_TIME)))
    columns = ["part", "class name", "references", "last added"]
    return pd.DataFrame(rows, columns=columns).to_string(index=False) if rows else "no parts"


def export_parts(model_class: Any, path: str | Path, export_root: Path, kind: str) -> list[Path]:
    """The paths of the parts' exports, one file for each, in folders of their names.

    Args:
        model_class: AprilGan.
        path: Of the checkpoint.
        export_root: In which the folders are made.
        kind: "torch", without code; "onnx" or "openvino".

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it can't be read or has no parts.
    """
    content = read_checkpoint(model_class, existing(path))
    names = part_names(content)
    if not names:
        msg = f"{path} has no parts. Add them with: aprilgan parts add."
        raise ValueError(msg)
    paths = []
    for name in names:
        module = model_class.load_from_checkpoint(path, part=name, visualizer=False).eval()
        options = {"weights_only": True} if kind == "torch" else {}
        paths.append(getattr(module, f"to_{kind}")(export_root / name, **options))
    return paths
