# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan references``: the reference images of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib_aprilgan.cli.errors import clear_errors


def add(checkpoint: Path, images: list[Path]) -> None:
    """Add normal images to the references of a checkpoint, and set its thresholds from all of them.

    Args:
        checkpoint: File to be changed.
        images: Image files, or folders whose images are all meant.

    Raises:
        SystemExit: With a message if nothing can be added; the checkpoint is as it was.
    """
    _change(checkpoint, "added", images)


def drop(checkpoint: Path, images: list[str]) -> None:
    """Drop references from a checkpoint, and set its thresholds from those that are left.

    Args:
        checkpoint: File to be changed.
        images: Paths, file names, or numbers in the list.

    Raises:
        SystemExit: With a message if there is no such reference, or none would be left; the checkpoint is as it was.
    """
    _change(checkpoint, "dropped", images)


def replace(checkpoint: Path, images: list[Path]) -> None:
    """Have these images, and no others, as the references of a checkpoint, and set its thresholds from them.

    Args:
        checkpoint: File to be changed.
        images: Image files, or folders whose images are all meant.

    Raises:
        SystemExit: With a message if an image can't be used; the checkpoint is as it was.
    """
    _change(checkpoint, "replaced", images)


def list_references(checkpoint: Path) -> None:
    """Print the references of a checkpoint: name, folder, when it was added, whether thresholds come from it.

    Args:
        checkpoint: File to be read.

    Raises:
        SystemExit: With a message if it can't be read.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.reference_changes import table_of  # noqa: PLC0415

        print(table_of(AprilGan, checkpoint))


def _change(checkpoint: Path, kind: str, images: list[Any]) -> None:
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components import reference_changes  # noqa: PLC0415

        lines = reference_changes.change_references(AprilGan, checkpoint, getattr(reference_changes, kind)(images))
    print(*lines, sep="\n")


REFERENCES: dict[str, Any] = {
    "_help": "Change or list the reference images of a checkpoint, or choose some in a folder.",
    "add": add,
    "drop": drop,
    "list": list_references,
    "replace": replace,
}
