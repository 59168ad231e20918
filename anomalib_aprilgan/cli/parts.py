# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan parts``: several kinds of parts in one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from anomalib_aprilgan.cli.errors import clear_errors


def add(checkpoint: Path, part: str, *, references: tuple[Path, ...] = (), class_name: str | None = None) -> None:
    """Add a part to a checkpoint, with class name, references and thresholds of its own.

    Args:
        checkpoint: File to be changed; adapters and all arguments but those of references are common to all parts.
        part: Its name.
        references: Normal images, files or folders whose images are all meant. Not given: zero-shot.
        class_name: Word for it in the prompts. None: its name.

    Raises:
        SystemExit: With a message if it can't be added; the checkpoint is as it was.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.part_changes import add_part  # noqa: PLC0415

        lines = add_part(AprilGan, checkpoint, part, references or (), class_name)
    print(*lines, sep="\n")


def drop(checkpoint: Path, part: str) -> None:
    """Drop a part from a checkpoint.

    Args:
        checkpoint: File to be changed.
        part: Its name.

    Raises:
        SystemExit: With a message if there is no such part; the checkpoint is as it was.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.part_changes import drop_part  # noqa: PLC0415

        drop_part(AprilGan, checkpoint, part)
    print(f"Dropped: {part}")


def list_parts(checkpoint: Path) -> None:
    """Print the parts of a checkpoint: name, class name, number of references, when the last one was added.

    Args:
        checkpoint: File to be read.

    Raises:
        SystemExit: With a message if it can't be read.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.part_changes import table_of_parts  # noqa: PLC0415

        print(table_of_parts(AprilGan, checkpoint))


def predict(checkpoint: Path, data: Path, *, output: Path = Path("results/parts")) -> None:
    """Predict images of several parts, each by its own part of a checkpoint, in one table.

    Args:
        checkpoint: File with parts.
        data: Folder with a folder of images for each part, or a CSV file with the columns image_path and part.
        output: Folder in which the run gets one of its own.

    Raises:
        SystemExit: With a message if there are no images, or one is of a part that is not in the checkpoint.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.part_predictions import predict_parts  # noqa: PLC0415

        table = predict_parts(AprilGan, checkpoint, data, output)
    print(f"Predictions of all parts: {table}")


def export(checkpoint: Path, *, export_root: Path, kind: Literal["torch", "onnx", "openvino"] = "torch") -> None:
    """Write an export of each part, in a folder of its name; they share nothing.

    Args:
        checkpoint: File with parts.
        export_root: Folder in which these folders are made.
        kind: torch (without code, for `anomalib_aprilgan.load_export`), onnx or openvino.

    Raises:
        SystemExit: With a message if there are no parts, or an optional package is missing.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.part_changes import export_parts  # noqa: PLC0415

        paths = export_parts(AprilGan, checkpoint, export_root, kind)
    print(*paths, sep="\n")


PARTS: dict[str, Any] = {
    "_help": "Keep several kinds of parts in one checkpoint.",
    "add": add,
    "drop": drop,
    "list": list_parts,
    "predict": predict,
    "export": export,
}
