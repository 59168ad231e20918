# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults of Lightning."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule


def current_datamodule(module: LightningModule) -> Any:
    """The data module of the run at hand, or of the last one between runs; None without any.

    Lightning 2.6 leaves ``trainer.datamodule`` as an earlier run has set it when a run is given data loaders instead.
    """
    trainer: Any = module._trainer  # noqa: SLF001  # the public property raises where there is none
    datamodule = getattr(trainer, "datamodule", None)
    loop = None if datamodule is None else trainer._active_loop  # noqa: SLF001
    if loop is not None and loop._data_source.instance is not datamodule:  # noqa: SLF001
        return None
    return datamodule
