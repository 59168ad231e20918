# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Imports between rooms go one way: from the method to what is built around it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "anomalib_aprilgan"
LEAVES = {"prompts", "adapters", "memory", "pool", "maps", "safe_io", "compat"}
# What each room may import besides itself; CONTRIBUTING.md draws the same map.
MAY_IMPORT = {
    **{leaf: set() for leaf in LEAVES},
    "adapters": {"safe_io"},
    "clip": LEAVES,
    "target": LEAVES,
    "torch_model": {*LEAVES, "clip", "target"},
}
MAY_IMPORT["data"] = {*MAY_IMPORT["torch_model"], "torch_model"}
MAY_IMPORT["components"] = {*MAY_IMPORT["data"], "data"}
MAY_IMPORT["lightning_model"] = {*MAY_IMPORT["components"], "components"}
MAY_IMPORT["comparison"] = {*MAY_IMPORT["lightning_model"], "lightning_model"}
MAY_IMPORT["app"] = MAY_IMPORT["comparison"]
MAY_IMPORT["cli"] = {*MAY_IMPORT["comparison"], "comparison", "app"}
MAY_IMPORT["plugin"] = set()
HOST = {"anomalib", "lightning", "torchmetrics", "pandas"}


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever, types included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_before_it(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("anomalib_aprilgan.")}
    # `from anomalib_aprilgan import AprilGan` is the public face of lightning_model.
    rooms = {{"AprilGan": "lightning_model"}.get(name, name) for name in rooms}
    assert rooms - {room(path)} <= MAY_IMPORT[room(path)]


@pytest.mark.parametrize("leaf", ["prompts", "adapters", "pool", "maps"])
def test_the_method_does_not_import_the_host(leaf: str) -> None:
    assert not {name.split(".")[0] for name in imported(PACKAGE / f"{leaf}.py")} & HOST


def test_only_clip_and_compat_import_open_clip() -> None:
    rooms = {room(path) for path in FILES if any(name.startswith("open_clip") for name in imported(path))}
    assert rooms <= {"clip", "compat"}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        graph[name] = imported(path)
    edges = {
        name: {other for other in graph if other != name and any(f"{each}.".startswith(f"{other}.") for each in names)}
        for name, names in graph.items()
    }
    # A package's __init__ re-exports its parts.
    edges = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in edges.items()}
    while edges:
        free = {name for name, others in edges.items() if not others & edges.keys()}
        assert free, f"import cycle among {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in free}
