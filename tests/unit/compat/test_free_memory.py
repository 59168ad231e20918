# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Free memory where a container may take less than the machine has."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from anomalib_aprilgan.compat import memory

NAMES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 450), ("500", 0), ("max", None), (str(2**62), None), (None, None)]
)
def test_no_more_than_a_container_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, limit: str | None, expected: int | None
) -> None:
    limit_file, use_file, cached = NAMES[version]
    if limit is not None:
        (tmp_path / limit_file).write_text(f"{limit}\n")
        (tmp_path / use_file).write_text("600\n")
        (tmp_path / "memory.stat").write_text(f"anon 550\n{cached} 50\n")
    monkeypatch.setattr(memory, "_CONTROLS", [(tmp_path, *NAMES[version])])
    available = psutil.virtual_memory().available
    found = memory.free_bytes()
    assert found == expected if expected is not None else abs(found - available) < 2**30
