# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What a result was made with: versions of packages, references and adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule

from anomalib_aprilgan.lightning_model import AprilGan

PACKAGES = ("anomalib", "anomalib-aprilgan", "lightning", "open_clip_torch", "timm", "torch", "torchvision")


def versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def relative_paths(references: Sequence[str], datamodule: AnomalibDataModule) -> list[str]:
    """Paths of the references relative to the root of the data set, with forward slashes."""
    root = Path(getattr(datamodule, "root", None) or ".").resolve()
    resolved = [Path(path).resolve() for path in references]
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in resolved]


def adapters_digest(model: AnomalibModule) -> str | None:
    """SHA-256 of the weights of an AprilGan's adapters; None for other models."""
    if not isinstance(model, AprilGan):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.adapters.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
