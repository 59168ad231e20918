# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A folder for each test and each prediction, so that no run replaces or mixes with what another has written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

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
        """Have the first run write into v0 instead of ``latest``."""
        del pl_module, stage
        folder = Path(trainer.default_root_dir)
        if folder.name == LATEST:
            settled = settle(folder) if trainer.is_global_zero else folder
            move_results(trainer, trainer.strategy.broadcast(settled))

    def _claim(self, trainer: Trainer, table: str) -> None:
        """Take the folder, or the next one if another run has; all processes of this run share it."""
        if tiles.index(trainer) is not None:
            return  # a tiled ensemble has one folder
        folder = Path(trainer.default_root_dir)
        claimed = claim(folder, table) if trainer.is_global_zero else folder
        move_results(trainer, trainer.strategy.broadcast(claimed))


def settle(latest: Path) -> Path:
    """The folder to which the link ``latest`` leads, made if there is none.

    Without it anomalib makes a folder of that name, which its next training can't replace by a link and so dies of.
    """
    with _lock(latest.parent):
        if not latest.exists():
            create_versioned_dir(latest.parent)
        elif os.name != "nt" and not latest.is_symlink():
            versions = (latest.with_name(f"v{number}") for number in count())
            latest.symlink_to(latest.rename(next(path for path in versions if not path.exists())))
        return resolve_versioned_path(latest)  # under the lock: a new version takes the link away for a moment


def claim(folder: Path, table: str) -> Path:
    """The folder, or a new version of it if it has the table or images of another run.

    Args:
        folder: To be used if it is free.
        table: Content with which the table of predictions begins.
    """
    root = folder.parent if re.fullmatch(r"v\d+", folder.name) else folder
    with _lock(root):
        if any((folder / name).exists() for name in (TABLE, IMAGES)):
            folder = _next_version(root, folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TABLE).write_bytes(table.encode())
    return folder


def _next_version(root: Path, before: Path) -> Path:
    """The next folder of a run, with the checkpoints of the one before."""
    folder = create_versioned_dir(root)
    if (before / "weights").exists():
        with suppress(OSError):  # where links are not allowed
            (folder / "weights").symlink_to(os.path.relpath(before / "weights", folder), target_is_directory=True)
    return folder


def _lock(root: Path) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / LOCK)
