# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Whether the installed anomalib and open_clip are of releases that this package supports."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "anomalib-aprilgan"
DEPENDENCIES = ("anomalib", "open-clip-torch")


def check_versions() -> None:
    """Raise ImportError if anomalib or open_clip is missing, or outside of the range that this package declares."""
    for requirement in _declared_requirements():
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = None
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            there = "is not installed" if installed is None else f"has version {installed}"
            msg = (
                f"{DISTRIBUTION} needs {requirement}, but {requirement.name} {there}. "
                f"Install it with: pip install '{requirement}'."
            )
            raise ImportError(msg, name=requirement.name)


def _declared_requirements() -> list[Requirement]:
    """Return what this package declares about them; nothing where it is not installed but on the path."""
    try:
        declared = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    requirements = [Requirement(line) for line in declared]
    return [each for each in requirements if canonicalize_name(each.name) in DEPENDENCIES and each.marker is None]
