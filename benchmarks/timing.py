# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Times of several functions, measured in turns so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def best_times(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The shortest of ``repeats`` times of each function in seconds, after one call each that does not count."""
    for function in functions.values():
        function()
    times = {name: float("inf") for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name] = min(times[name], seconds(function))
    return times


def seconds(function: Callable[[], object]) -> float:
    """The time of one call."""
    _synchronize()
    start = time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
