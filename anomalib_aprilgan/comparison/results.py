# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The results file: one line of JSON per run, in the order in which the runs end."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from anomalib_aprilgan.comparison.fingerprints import check_unmixed
from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS
from anomalib_aprilgan.safe_io import named_errors, write_whole

logger = logging.getLogger(__name__)

SCHEMA = 1
FILE = "results.jsonl"
KEY = ["model", "dataset", "category", "shots", "seed"]
NUMBER = (int, float, type(None))  # None: undefined, as pixel metrics without masks
TEXTS = ("model", "model_class", "dataset", "data_class", "category", "settings", "status")
EVERY_ROW: dict[str, Any] = {**dict.fromkeys(TEXTS, str), "shots": int, "seed": int}
FINISHED_ROW: dict[str, Any] = {
    **dict.fromkeys([*IMAGE_METRICS, *PIXEL_METRICS, "seconds_per_image", "peak_memory_mib"], NUMBER),
    **dict.fromkeys(["memory_kind", "device"], str),
    "mask_size": int,
}
LOCK, HOLDER = ".lock", ".holder"
LOCK_SECONDS = 10  # processes that load images for a comparison that was killed live on for up to 5, and hold its lock
Row = dict[str, Any]


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other comparisons out of the folder.

    Raises:
        ValueError: If there is another one, saying whose.
    """
    output.mkdir(parents=True, exist_ok=True)
    holder = output / HOLDER
    lock = FileLock(output / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "a process that has just started"
        msg = f"Another comparison writes to {output}: {who}. Wait for its end, or choose another `output`."
        raise ValueError(msg) from error
    try:
        who = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        write_whole(holder, lambda file: file.write(who.encode()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def append_row(path: Path, row: Row) -> None:
    """Add a line, which is on disk when this returns."""
    line = json.dumps({"schema": SCHEMA, **row}, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path), path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def repair(path: Path) -> None:
    """Remove an incomplete last line, which a killed process leaves, and warn that its run will be repeated."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        logger.warning("The last line of %s was cut off in the middle and is removed: its run will be repeated.", path)
        os.truncate(path, end)


def read_rows(path: Path) -> list[Row]:
    """All complete lines; an incomplete last one is left out with a warning.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a result, or one of another version of this package.
    """
    if not path.is_file():
        msg = f"There are no results in {path}: run `aprilgan compare` with this `output` first."
        raise FileNotFoundError(msg)
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        logger.warning("The last line of %s was cut off in the middle and is left out.", path)
    return [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
        schema = row["schema"]
    except (ValueError, TypeError, KeyError) as error:
        start = line[:80].decode(errors="replace")
        msg = f"{where} is not a result of `aprilgan compare`: {start!r}. Restore the file or remove this line."
        raise ValueError(msg) from error
    if schema != SCHEMA:
        msg = (
            f"{where} has version {schema} of the results, this anomalib-aprilgan reads and writes {SCHEMA}: choose "
            "another `output`, or use the version of anomalib-aprilgan that wrote it."
        )
        raise ValueError(msg)
    for name, kind in {**EVERY_ROW, **(FINISHED_ROW if row.get("status") == "ok" else {"error": str})}.items():
        if not isinstance(row.get(name, ...), kind):
            problem = f"has {row[name]!r} as {name!r}" if name in row else f"lacks {name!r}"
            msg = f"{where} {problem}. Restore the file, or remove this line, and its run will be repeated."
            raise ValueError(msg)
    return row


def finished(rows: Iterable[Row], grid: Grid) -> set[Job]:
    """The runs that need not be repeated; failed ones are repeated.

    Raises:
        ValueError: If a model or data set of the grid had other settings when the rows were made.
    """
    done = set()
    for row in rows:
        if row["model"] not in grid.models or row["dataset"] not in grid.datasets:
            continue
        if row["settings"] != grid.settings(row["model"], row["dataset"]):
            msg = (
                f"`output` holds results of {row['model']!r} on {row['dataset']!r} that were made with other settings "
                "(init_args, mask_size or trainer): give the model another name, or choose another `output`."
            )
            raise ValueError(msg)
        if row["status"] == "ok":
            done.add(Job(**{name: row[name] for name in KEY}))
    return done


def read_results(output: Path) -> pd.DataFrame:
    """A row of each run, its last finished one if there is one, as a sorted table, in whatever order the runs ended.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they can't be read.
    """
    rows = read_rows(output / FILE)
    if not rows:
        msg = f"{output / FILE} is empty: run `aprilgan compare` with this `output` first."
        raise ValueError(msg)
    check_unmixed(rows, [], str(output / FILE))
    rows.sort(key=lambda row: row["status"] == "ok")
    return pd.DataFrame(rows).drop_duplicates(KEY, keep="last").sort_values(KEY, ignore_index=True)
