# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The device of a run: its choice, its name and its peak memory."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
import sys
from pathlib import Path

import torch

from anomalib_aprilgan.compat.memory import free_bytes

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def choose_device(accelerator: str) -> torch.device:
    """The GPU of this worker: its own where each worker sees one, else by the worker's number; else the CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    number = re.search(r"(\d+)$", multiprocessing.current_process().name)  # such as LokyProcess-3
    return torch.device("cuda", int(number[1]) % torch.cuda.device_count() if number else 0)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def free_memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are free for this process on this machine and on the device."""
    machine = free_bytes()
    return machine, torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine


class PeakMemory:
    """The highest memory use since the object was made: of the GPU, or of the whole process on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind = "cuda" if device.type == "cuda" else "process"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            RESET.write_text("5")  # Linux: the high-water mark starts anew
        except OSError:
            self.kind = "process since its start"

    def mebibytes(self) -> float | None:
        """Peak memory in MiB; None where the system does not report it (Windows)."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.kind == "process":
            lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
            return int(lines["VmHWM"].split()[0]) / 2**10
        if importlib.util.find_spec("resource") is None:
            return None
        import resource  # noqa: PLC0415

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
