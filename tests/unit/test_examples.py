# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of the public classes, run on the demo data."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest
import torch

from anomalib_aprilgan import AprilGan, AprilGanModel, AuxiliaryDataModule, DemoDataModule, PartsDataModule
from conftest import DATASET


@pytest.mark.usefixtures("_no_log")
@pytest.mark.parametrize("public", [AprilGan, AprilGanModel, AuxiliaryDataModule, DemoDataModule, PartsDataModule])
def test_example(public: type, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "aprilgan_demo").symlink_to(demo_root)
    (tmp_path / "parts").symlink_to(DATASET)
    shutil.copy(demo_root / "coins" / "test" / "good" / "000.png", tmp_path / "coin.png")
    monkeypatch.chdir(tmp_path)
    (example,) = [test for test in doctest.DocTestFinder(recurse=False).find(public) if test.examples]
    example.globs.update(AprilGan=AprilGan, torch=torch)
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
