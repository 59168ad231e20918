# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs; what it measures is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted(Path(__file__).parents[2].glob("benchmarks/*.py"))


@pytest.mark.parametrize("path", [path for path in BENCHMARKS if path.stem != "timing"], ids=lambda path: path.stem)
def test_quick_run(path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", path, "--quick"], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    assert re.search(r"\d\.\d|\d MiB|float32 +\d", process.stdout)
