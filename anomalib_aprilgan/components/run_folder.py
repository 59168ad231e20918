# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A folder for each test and each prediction, so that no run replaces or mixes with what another has written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from anomalib.utils.path import create_versioned_dir, resolve_versioned_path
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_aprilgan.compat import tiles
from anomalib_aprilgan.compat.lightning import move_results

LATEST = "latest"
LOCK = ".runs.lock"
IMAGES, TABLE = "images", "predictions.csv"


class RunFolder(Callback):
    """Gives tests and predictions a folder of their own among anomalib's v0, v1, ... to which ``latest`` leads.

    Differs: anomalib writes each run into the folder that is the latest already.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the first run write into v0.

        anomalib would make a folder called ``latest``, which its next training can't replace by a link and so dies of.
        """
        del pl_module, stage
        folder = Path(trainer.default_root_dir)
        if folder.name == LATEST:
            if trainer.is_global_zero:
                with _lock(folder.parent):
                    if not folder.exists():
                        create_versioned_dir(folder.parent)
            trainer.strategy.barrier()
            move_results(trainer, resolve_versioned_path(folder))

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the folder of another run."""
        if pl_module.visualizer is not None:
            self._claim(trainer, "")

    def _claim(self, trainer: Trainer, table: str) -> None:
        """Take the folder, or the next one if another run has; all processes of this run share it."""
        if tiles.index(trainer) is not None:
            return  # a tiled ensemble has one folder
        folder = claim(Path(trainer.default_root_dir), table) if trainer.is_global_zero else None
        move_results(trainer, trainer.strategy.broadcast(folder))


def claim(folder: Path, table: str) -> Path:
    """The folder, or a new version of it if it has the table or images of another run.

    Args:
        folder: To be used if it is free.
        table: Content with which the table of predictions begins; empty: none is made.
    """
    root = folder.parent if re.fullmatch(rf"v\d+|{LATEST}", folder.name) else folder
    with _lock(root):
        if any((folder / name).exists() for name in (TABLE, IMAGES)):
            folder = _next_version(root, folder)
        (folder if table else folder / IMAGES).mkdir(parents=True, exist_ok=True)
        if table:
            (folder / TABLE).write_bytes(table.encode())
    return folder


def _next_version(root: Path, before: Path) -> Path:
    """The next folder of a run, with the checkpoints of the one before."""
    latest = root / LATEST
    if os.name != "nt" and latest.is_dir() and not latest.is_symlink():  # of an older version of this package
        free = next(path for path in (root / f"v{number}" for number in count()) if not path.exists())
        before = latest.rename(free) if before == latest else before
    folder = create_versioned_dir(root)
    if (before / "weights").exists():
        with suppress(OSError):  # where links are not allowed
            (folder / "weights").symlink_to(os.path.relpath(before / "weights", folder), target_is_directory=True)
    return folder


def _lock(root: Path) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / LOCK)
