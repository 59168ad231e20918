# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Free memory, also in a container that may take less than its machine has. psutil 7 reports the machine's alone."""

from __future__ import annotations

from pathlib import Path

import psutil

# Limit, use, and the line of memory.stat with cached files that go when memory is needed: cgroups of version 2 and 1.
_CONTROLS = [
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


def free_bytes() -> int:
    """Bytes that this process can take: those that are free on the machine, and no more than its container has left."""
    return min([psutil.virtual_memory().available, *map(_left, _CONTROLS)])


def _left(control: tuple[Path, str, str, str]) -> int:
    """Bytes below a container's limit; the machine's memory where there is no limit."""
    folder, limit, use, cached = control
    try:
        allowed, used = int((folder / limit).read_text()), int((folder / use).read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, allowed - used + int(cache[cached]))
    except (OSError, ValueError, KeyError):  # no such cgroup, or "max"
        return psutil.virtual_memory().total
