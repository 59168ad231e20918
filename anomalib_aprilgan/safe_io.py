# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Files written wholly or not at all, and files of torch read only if they are undamaged and hold no code."""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Have ``write`` fill a new file that then takes the name ``path``: there is the old file or the new, never half.

    That holds whoever else writes it at the same time, and whenever the process or the machine stops.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # beside it: only there renaming is one step
    try:
        with named_errors(path), unfinished.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Name the file in an error of writing it, such as that of a full disk, which names none."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch raises an error about its archive while it handles the one of the disk.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.errno is not None and cause.filename is None:
            cause.filename = str(path)
        raise cause from None


def read_torch(path: str | Path, map_location: Any = "cpu") -> Any:
    """What ``torch.save`` wrote: tensors and plain values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, cut off, damaged, of another kind, or would run code, naming file and reason.
    """
    reason = _damage(Path(path))
    if reason is None:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # noqa: BLE001  # torch raises errors of many kinds for files that are not its own
            reason = _unreadable(Path(path), error)
    msg = f"{path} can't be read: {reason}. Expected a whole file of tensors and plain values: copy or make it again."
    raise ValueError(msg)


def _damage(path: Path) -> str | None:
    """Why the file is not as it was written, or None; torch itself does not compare checksums."""
    if path.stat().st_size == 0:
        return "it is empty"
    if not zipfile.is_zipfile(path):
        return None if _begins_like_pickle(path) else "it is cut off, damaged, or not a file of torch"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # noqa: BLE001  # zipfile raises errors of many kinds for damaged archives
        return f"it is damaged ({error})"
    return None if damaged is None else f"it is damaged: its part {damaged} is not what was written"


def _begins_like_pickle(path: Path) -> bool:
    """Whether it may be one of the files that torch wrote before it wrote archives."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _unreadable(path: Path, error: Exception) -> str:
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    if unsafe:
        return f"it holds more than tensors and plain values, and might run code ({', '.join(unsafe)})"
    return f"it is not a file of torch, or damaged ({type(error).__name__})"
