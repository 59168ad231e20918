# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The direction of imports: leaves know torch only and not each other; only encoder.py knows open_clip."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "anomalib_aprilgan"
LEAVES = ["prompts", "encoder", "adapters", "memory", "maps", "scores", "losses"]
ABOVE = ["torch_model", "lightning_model", "comparison", "cli"]
HOST = {"anomalib", "lightning", "torchmetrics", "pandas"}


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("anomalib_aprilgan.")}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_neither_each_other_nor_the_host(leaf: str) -> None:
    names = imported(PACKAGE / f"{leaf}.py")
    assert not own(names) & {*LEAVES, *ABOVE}
    assert not {name.split(".")[0] for name in names} & HOST


def test_torch_model_imports_nothing_above() -> None:
    assert not own(imported(PACKAGE / "torch_model.py")) & {
        *ABOVE,
        "data",
        "weights",
        "post_processor",
        "pre_processor",
    }


def test_lightning_model_imports_nothing_above() -> None:
    assert not own(imported(PACKAGE / "lightning_model.py")) & {"comparison", "cli"}


def test_only_the_encoder_imports_open_clip() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if any(name.startswith("open_clip") for name in imported(path))]
    assert [path.name for path in files] == ["encoder.py"]
