# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs; what it measures is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

BENCHMARKS = [path for path in sorted(ROOT.glob("benchmarks/*.py")) if path.stem != "timing"]


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_quick_run(path: Path) -> None:
    """In a process of its own, because some measure its memory."""
    command = [sys.executable, "-W", "ignore", path, "--quick"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr
    assert re.search(r"\d\.\d|\d MiB|float32 +\d", process.stdout)
