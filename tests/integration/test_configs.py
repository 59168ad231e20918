# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Every file in configs/ is what anomalib's command line takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI

from anomalib_aprilgan import AprilGan, lightning_model
from conftest import TINY_CLIP

# Those of comparisons are for `aprilgan`: tests/test_comparison_cli.py.
CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    if not path.stem.startswith(("compare", "vand"))
]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without CLIP itself, whose weights are not here."""
    monkeypatch.chdir(tmp_path)
    arguments = {"widths": [4] * 4, "embed_dim": TINY_CLIP["embed_dim"]}
    encoder = type("Encoder", (lightning_model.nn.Module,), arguments)
    monkeypatch.setattr(lightning_model, "ClipEncoder", lambda *_args: encoder())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("light")
def test_instantiates(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "train" if path.stem.startswith(("train", "demo")) else "test"
    assert f"anomalib {command} --config configs/{path.name}" in path.read_text()
    monkeypatch.setattr(AnomalibCLI, "_run_subcommand", lambda _self: None)
    monkeypatch.setattr(sys, "argv", ["anomalib", command, "--config", str(path)])
    cli = AnomalibCLI()
    assert isinstance(cli.model, AprilGan)
    assert (cli.model.adapters is None) == (command == "train")
    assert cli.datamodule.category
