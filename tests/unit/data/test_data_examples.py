# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of the data modules, run on the demo data."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from anomalib_aprilgan import AuxiliaryDataModule, DemoDataModule


@pytest.mark.parametrize("public", [AuxiliaryDataModule, DemoDataModule])
def test_example(public: type, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "aprilgan_demo").symlink_to(demo_root)
    monkeypatch.chdir(tmp_path)
    (example,) = [test for test in doctest.DocTestFinder(recurse=False).find(public) if test.examples]
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
