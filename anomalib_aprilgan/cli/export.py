# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan export``: a torch file that needs no trust in who made it."""

from __future__ import annotations

from pathlib import Path

from anomalib_aprilgan.cli.errors import clear_errors


def export(*, checkpoint: Path, export_root: Path, model_file_name: str = "model") -> None:
    """Write weights and configuration of a model as a torch file without code, for `anomalib_aprilgan.load_export`.

    Args:
        checkpoint: Of the model.
        export_root: Folder in which the folder weights/torch is made.
        model_file_name: Name of the file without suffix.

    Raises:
        SystemExit: With a message, if the checkpoint is missing or can't be exported.
    """
    from anomalib_aprilgan import AprilGan  # noqa: PLC0415

    with clear_errors():
        model = AprilGan.load_from_checkpoint(checkpoint, visualizer=False)
        path = model.to_torch(export_root, model_file_name, weights_only=True)
    print(f"Exported to {path}. Load it with anomalib_aprilgan.load_export.")
