# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan validate``: an exported file against its model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

from anomalib_aprilgan.cli.errors import clear_errors


def validate(
    export: Path,
    *,
    data: Path,
    checkpoint: Path,
    part: str | None = None,
    score_limit: float = 1e-4,
    map_limit: float = 5e-3,
    decisions_limit: int = 0,
    precision: Literal["f32", "bf16"] = "f32",
    threads: int | None = None,
) -> None:
    """Compare an exported file with the model that it was made from. The exit code is 1 if they differ too much.

    Args:
        export: The file: .pt, .onnx or .xml.
        data: Folder of images.
        checkpoint: Of the model.
        part: Of the checkpoint, from which the file was made. None: the checkpoint's own target.
        score_limit: Largest difference of raw scores.
        map_limit: Largest difference of a pixel of raw anomaly maps.
        decisions_limit: Images that one may call normal and the other abnormal, beyond rounding at the threshold.
        precision: Of OpenVINO; on processors with bfloat16 its own default is bf16.
        threads: Of both.

    Raises:
        SystemExit: If a limit is exceeded, or with a message if a file is missing or of another kind.
    """
    from anomalib_aprilgan import AprilGan  # noqa: PLC0415
    from anomalib_aprilgan.components.export_validation import Limits, compare_export, images_of  # noqa: PLC0415

    with clear_errors():
        load = partial(AprilGan.load_from_checkpoint, checkpoint, part=part, visualizer=False)
        result = compare_export(export, images_of(data), load, precision, threads)
    print(*result.lines(), sep="\n")
    faults = result.faults(Limits(score_limit, map_limit, decisions_limit))
    print(f"{export} differs from its model: {'; '.join(faults)}" if faults else f"{export} agrees with its model")
    if faults:
        sys.exit(1)
