# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Every file in configs/ is what anomalib's command line takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI

from anomalib_aprilgan import AprilGan
from conftest import ROOT

COMPARISONS = ("ablation", "compare", "vand")  # tests/unit/comparison/test_comparison_results.py
CONFIGS = [path for path in sorted(ROOT.glob("configs/*.yaml")) if not path.stem.startswith(COMPARISONS)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_instantiates(path: Path, tiny_arguments: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny CLIP where a configuration names the large one, whose weights are not here."""
    monkeypatch.chdir(tmp_path)
    command = "train" if path.stem.startswith(("train", "demo")) else "test"
    assert f"anomalib {command} --config configs/{path.name}" in path.read_text()
    monkeypatch.setattr(AnomalibCLI, "_run_subcommand", lambda _self: None)
    clip = [f"--model.{name}={tiny_arguments[name]}" for name in ("backbone", "pretrained", "image_size", "layers")]
    cli = AnomalibCLI(args=[command, "--config", str(path), *([] if path.stem == "real" else clip)])
    assert isinstance(cli.model, AprilGan)
    assert (cli.model.adapters is None) == (command == "train")
    assert cli.datamodule.category
