# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The example in the docstring of ``compare`` runs as printed, and trains its adapters once."""

from __future__ import annotations

import inspect
import sys
import textwrap
from pathlib import Path

import pytest

from anomalib_aprilgan import cli
from anomalib_aprilgan.comparison.results import read_results
from anomalib_aprilgan.data import demo


@pytest.mark.slow
def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "CATEGORIES", ["brick", "coins", "gravel"])  # brick: the default
    Path("compare.yaml").write_text(textwrap.dedent(inspect.getdoc(cli.compare).partition("::\n")[2]))
    trained = set()
    for arguments in (["--shots", "[0]"], []):
        monkeypatch.setattr(sys, "argv", ["aprilgan", "compare", "--config", "compare.yaml", *arguments])
        cli.main()
        trained |= {(path, path.stat().st_mtime_ns) for path in Path("results/example/adapters").iterdir()}
    assert len(trained) == 1  # the second start takes the adapters of the first
    assert "demo: mean over 1 categories" in capsys.readouterr().out
    results = read_results(Path("results/example"))
    assert list(results.model) == ["AprilGan", "AprilGan", "SPADE"]
    assert set(results.status) == {"ok"}
    assert results.adapters_sha256.nunique() == 1  # SPADE has none
