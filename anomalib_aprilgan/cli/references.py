# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan references``: the reference images of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib_aprilgan.cli.errors import check_folders, clear_errors


def add(checkpoint: Path, images: list[Path], *, part: str | None = None) -> None:
    """Add normal images to the references of a checkpoint, and set its thresholds from all of them.

    Args:
        checkpoint: File to be changed.
        images: Image files, or folders whose images are all meant.
        part: Whose references are meant. None: the checkpoint's own.

    Raises:
        SystemExit: With a message if nothing can be added; the checkpoint is as it was.
    """
    _change(checkpoint, "added", images, part)


def drop(checkpoint: Path, images: list[str], *, part: str | None = None) -> None:
    """Drop references from a checkpoint, and set its thresholds from those that are left.

    Args:
        checkpoint: File to be changed.
        images: Paths, file names, or numbers in the list.
        part: Whose references are meant. None: the checkpoint's own.

    Raises:
        SystemExit: With a message if there is no such reference, or none would be left; the checkpoint is as it was.
    """
    _change(checkpoint, "dropped", images, part)


def replace(checkpoint: Path, images: list[Path], *, part: str | None = None) -> None:
    """Have these images, and no others, as the references of a checkpoint, and set its thresholds from them.

    Args:
        checkpoint: File to be changed.
        images: Image files, or folders whose images are all meant.
        part: Whose references are meant. None: the checkpoint's own.

    Raises:
        SystemExit: With a message if an image can't be used; the checkpoint is as it was.
    """
    _change(checkpoint, "replaced", images, part)


def list_references(checkpoint: Path, *, part: str | None = None) -> None:
    """Print the references of a checkpoint: name, folder, when it was added, whether thresholds come from it.

    Args:
        checkpoint: File to be read.
        part: Whose references are meant. None: the checkpoint's own.

    Raises:
        SystemExit: With a message if it can't be read.
    """
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.reference_changes import table_of  # noqa: PLC0415

        print(table_of(AprilGan, checkpoint, part))


def suggest(
    folder: Path,
    *,
    k: int,
    output: Path = Path("suggested_references.png"),
    backbone: str = "ViT-L-14-336",
    pretrained: str | None = "openai",
    image_size: int = 518,
) -> None:
    """Choose the images of a folder that cover it best, print their paths and draw them.

    Copies, and images that are unlike all others, are left out and named: they may show defects.

    Args:
        folder: Of normal images.
        k: Number of images to choose.
        output: Picture to be written: the chosen images, then those unlike all others.
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".
        pretrained: open_clip tag, path of a checkpoint, or null for random weights.
        image_size: Height and width in pixels to which images are resized.

    Raises:
        SystemExit: With a message if there are too few images.
    """
    with clear_errors():
        check_folders(folder)
        import torch  # noqa: PLC0415

        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components.reference_choice import choose, draw  # noqa: PLC0415

        module = AprilGan(backbone, pretrained, image_size, adapters=None)
        module = module.to("cuda" if torch.cuda.is_available() else "cpu")
        choice = choose(module.model, module.reference_transform, folder, k)
        draw(choice, output)
    print(*choice.lines(), f"Pictures: {output}", sep="\n")


def _change(checkpoint: Path, kind: str, images: list[Any], part: str | None) -> None:
    with clear_errors():
        from anomalib_aprilgan import AprilGan  # noqa: PLC0415
        from anomalib_aprilgan.components import reference_plans  # noqa: PLC0415
        from anomalib_aprilgan.components.reference_changes import change_references  # noqa: PLC0415

        lines = change_references(AprilGan, checkpoint, getattr(reference_plans, kind)(images), part)
    print(*lines, sep="\n")


REFERENCES: dict[str, Any] = {
    "_help": "Change or list the reference images of a checkpoint, or choose some in a folder.",
    "add": add,
    "drop": drop,
    "list": list_references,
    "replace": replace,
    "suggest": suggest,
}
