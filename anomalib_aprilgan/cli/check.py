# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan check``: a model on good and bad images, and thresholds for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib_aprilgan.cli.errors import check_folders, clear_errors


def check(
    *,
    good: Path,
    bad: Path,
    checkpoint: Path | None = None,
    model: dict[str, Any] | None = None,
    false_alarm_rate: float | None = None,
    escape_rate: float | None = None,
    save: Path | None = None,
    output: Path = Path("results"),
) -> None:
    """Print false alarms and escapes of a model on two folders, and suggest thresholds.

    Args:
        good: Folder of normal images.
        bad: Folder of abnormal images; no masks are needed.
        checkpoint: Of the model.
        model: Arguments of AprilGan, such as ``--model.class_name bolt``.
        false_alarm_rate: Fraction of good images that may be called bad, in [0, 1). Default: 0.01 if there is no other.
        escape_rate: Fraction of bad images that may be called good, in [0, 1).
        save: Checkpoint to write, with the suggested threshold.
        output: Folder of results: table and pictures.

    Raises:
        SystemExit: With a message if a folder, a file or an argument is wrong.
    """
    with clear_errors():
        from anomalib_aprilgan.comparison.report import labelled  # noqa: PLC0415

        rates = (0.01 if false_alarm_rate is None and escape_rate is None else false_alarm_rate, escape_rate)
        labelled.check_arguments(*rates, save)
        check_folders(good, bad)
        module = labelled.build(checkpoint, model or {})
        scores, engine = labelled.predict_folders(module, good, bad, output)
        suggested = labelled.suggest(scores, *rates)
        print(*labelled.lines(scores, suggested), sep="\n")
        print(f"Table and pictures: {scores.table.parent}; aprilgan report {scores.table.parent} draws them up")
        if save is None:
            print(
                "To use a suggested threshold: --save CHECKPOINT keeps it, for anomalib predict --ckpt_path CHECKPOINT"
            )
            return
        ((threshold, _),) = suggested.values()
        labelled.save_threshold(module, engine, scores, threshold, save)
        print(f"{save} has the threshold {threshold:.6g} (raw score). To use it, with the same --model arguments:")
        print(f"  anomalib predict --model AprilGan ... --ckpt_path {save}")
