# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Whether the packages that this one is built into are of a release that it was made for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "anomalib-aprilgan"
HOSTS = ("anomalib", "open-clip-torch")


def check_versions() -> None:
    """Check the installed anomalib and open_clip against the ranges that this package declares.

    Raises:
        ImportError: If one is missing or outside of its range.
    """
    for requirement in _host_requirements():
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


def _host_requirements() -> list[Requirement]:
    """What this package declares about its hosts; nothing where it is not installed but lies on the path."""
    try:
        declared = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    requirements = [Requirement(line) for line in declared]
    return [each for each in requirements if canonicalize_name(each.name) in HOSTS and each.marker is None]
