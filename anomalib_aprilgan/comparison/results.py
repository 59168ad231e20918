# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The results file: one line of JSON per run, in the order in which the runs end."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_aprilgan.comparison.fingerprints import check_unmixed
from anomalib_aprilgan.comparison.grid import Grid, Job

logger = logging.getLogger(__name__)

SCHEMA = 1
FILE = "results.jsonl"
KEY = ["model", "dataset", "category", "shots", "seed"]
Row = dict[str, Any]


def append_row(path: Path, row: Row) -> None:
    """Add a line, which is on disk when this returns."""
    line = json.dumps({"schema": SCHEMA, **row}, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
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
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        logger.warning("The last line of %s was cut off in the middle and is left out.", path)
    return [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
        schema = row["schema"]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        msg = f"{where} is not a result of `aprilgan compare`: {line[:80]!r}. Restore the file or remove this line."
        raise ValueError(msg) from error
    if schema != SCHEMA:
        msg = (
            f"{where} has version {schema} of the results, this anomalib-aprilgan reads and writes {SCHEMA}: choose "
            "another `output`, or use the version of anomalib-aprilgan that wrote it."
        )
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
    """The last row of each run as a sorted table, the same in whatever order the runs ended.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they can't be read.
    """
    rows = read_rows(output / FILE)
    if not rows:
        msg = f"{output / FILE} is empty: run `aprilgan compare` with this `output` first."
        raise ValueError(msg)
    check_unmixed(rows, [], str(output / FILE))
    return pd.DataFrame(rows).drop_duplicates(KEY, keep="last").sort_values(KEY, ignore_index=True)
