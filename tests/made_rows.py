# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of results that no run has made."""

from __future__ import annotations

from typing import Any

from anomalib_aprilgan.comparison.grid import Job
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS


def made_row(job: Job, value: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    """The row of a finished run whose metrics all have one value."""
    return {
        **vars(job),
        "model_class": "Spade",
        "data_class": "MVTecAD",
        "settings": "",
        "status": "ok",
        "error": None,
        "mask_size": 70,
        **dict.fromkeys([*IMAGE_METRICS, *PIXEL_METRICS], value),
        "seconds_per_image": 0.5,
        "peak_memory_mib": 100.0,
        "memory_kind": "process",
        "device": "cpu, 1 threads",
        **changes,
    }
