# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Releases of anomalib and open_clip that are not supported fail at import, with the range that is."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import anomalib_aprilgan
from anomalib_aprilgan.compat import versions

ROOT = Path(__file__).parents[3]
DECLARED = ["anomalib>=2.7,<3", "open-clip-torch>=2.24,<4", "torch>=2.10,<3", "anomalib[clip]<2; extra == 'winclip'"]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Pretends that other releases are installed."""

    def pretend(**installed: str | None) -> None:
        def version(name: str) -> str:
            found = {"anomalib": "2.7.0", "open_clip_torch": "3.3.0", **installed}[name.replace("-", "_")]
            if found is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(versions, "version", version)
        monkeypatch.setattr(versions, "requires", lambda _name: DECLARED)

    return pretend


@pytest.mark.parametrize("open_clip", ["2.24.0", "2.32.0", "3.3.0"])
@pytest.mark.parametrize("anomalib", ["2.7.0", "2.7.1rc1", "2.9"])
def test_supported_releases(install, anomalib: str, open_clip: str) -> None:
    install(anomalib=anomalib, open_clip_torch=open_clip)
    versions.check_versions()


@pytest.mark.parametrize(
    ("name", "installed", "message"),
    [
        ("open_clip_torch", "2.23.0", r"needs open-clip-torch<4,>=2\.24, but open-clip-torch has version 2\.23\.0"),
        ("open_clip_torch", "4.0.0", r"open-clip-torch has version 4\.0\.0\. Install it with: pip install 'open-clip"),
        ("open_clip_torch", None, "but open-clip-torch is not installed"),
        ("anomalib", "2.6.0", r"needs anomalib<3,>=2\.7, but anomalib has version 2\.6\.0"),
        ("anomalib", "3.0.0", r"anomalib has version 3\.0\.0"),
    ],
)
def test_other_releases_fail_at_import(install, name: str, installed: str | None, message: str) -> None:
    install(**{name: installed})
    with pytest.raises(ImportError, match=message):
        importlib.reload(anomalib_aprilgan)
    assert anomalib_aprilgan.AprilGan.__name__ == "AprilGan"


def test_without_installation_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "requires", requires)
    versions.check_versions()


def test_the_ranges_are_those_of_the_project() -> None:
    """Read from the installed metadata, which come from pyproject.toml."""
    declared = re.findall(r'^  "((?:anomalib|open_clip_torch)>=[^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    found = {str(each).replace("-", "_") for each in versions._declared_requirements()}
    assert found == {str(versions.Requirement(each)) for each in declared}
    assert len(declared) == len(versions.DEPENDENCIES)
