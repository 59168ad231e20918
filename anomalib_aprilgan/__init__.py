# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN for anomalib: zero- and few-shot anomaly detection with a frozen CLIP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomalib_aprilgan.compat.versions import check_versions

if TYPE_CHECKING:
    from anomalib_aprilgan.components.plain_export import load_export
    from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
    from anomalib_aprilgan.data import (
        AuxiliaryDataModule,
        DemoDataModule,
        ElpvDataModule,
        PartsDataModule,
        TextileDataModule,
    )
    from anomalib_aprilgan.lightning_model import AprilGan
    from anomalib_aprilgan.torch_model import AprilGanModel

__version__ = "0.1.0"
__all__ = [
    "AprilGan",
    "AprilGanModel",
    "AprilGanPostProcessor",
    "AuxiliaryDataModule",
    "DemoDataModule",
    "ElpvDataModule",
    "PartsDataModule",
    "TextileDataModule",
    "load_export",
]

check_versions()  # here, since what another release lacks would only be missed in the middle of a run

_HOMES = {
    "AprilGan": "lightning_model",
    "AprilGanModel": "torch_model",
    "AprilGanPostProcessor": "components.post_processor",
    "AuxiliaryDataModule": "data",
    "DemoDataModule": "data",
    "ElpvDataModule": "data",
    "PartsDataModule": "data",
    "TextileDataModule": "data",
    "load_export": "components.plain_export",
}


def __getattr__(name: str) -> object:
    # Imported on first use: the start-up hook (plugin.py) must be loadable without torch.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
