# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Tables as Markdown, LaTeX and CSV texts, and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import methodcaller
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import DataRow, TableFormat

from anomalib_aprilgan.comparison.tables import Cell, Table
from anomalib_aprilgan.safe_io import write_whole

MISSING = "-"
TERMINAL_STYLES = {0: "", 1: "bold", 2: "underline"}
MARKDOWN_ESCAPES = str.maketrans({"|": r"\|"})
LATEX_ESCAPES = str.maketrans({char: "\\" + char for char in "&%$#_{}"} | {"±": r"$\pm$", "\\": r"\textbackslash{}"})
# Markdown without padding: a changed number changes one line of the file.
ROW = DataRow("| ", " | ", " |")
UNPADDED = TableFormat(None, lambda widths, _: "|" + "---|" * len(widths), None, None, ROW, ROW, 0, None)


def number(cell: Cell) -> str:
    """The measured part of a cell, such as "95.1 ± 0.1"."""
    if isinstance(cell.mean, str):
        return cell.mean
    if math.isnan(cell.mean):
        return MISSING
    text = f"{cell.mean:.{cell.digits}f}"
    return text if cell.std is None else f"{text} ± {cell.std:.{cell.digits}f}"


def beside(cell: Cell) -> str:
    """The published part, such as " (95.2, -0.1)", " (95.2)" if it is second-hand, or nothing."""
    if cell.published is None or isinstance(cell.mean, str):
        return ""
    if cell.second_hand:
        return f" ({cell.published:.1f})"
    difference = MISSING if math.isnan(cell.mean) else f"{cell.mean - cell.published:+.1f}"
    return f" ({cell.published:.1f}, {difference})"


def markdown(tables: Sequence[Table]) -> str:
    """Markdown: the best in bold, the second underlined, notes as a list below each table."""
    parts = []
    for table in tables:
        frame = _texts(table, ("{}", "**{}**", "<u>{}</u>"), MARKDOWN_ESCAPES)
        body = frame.to_markdown(index=False, tablefmt=UNPADDED, disable_numparse=True, stralign=None)
        notes = [f"- {note}\n" for note in _notes(table)]
        parts.append(f"### {table.title}\n\n{body}\n\n{''.join(notes)}")
    return "\n".join(parts)


def latex(tables: Sequence[Table]) -> str:
    """LaTeX with the package booktabs; notes as comments above each table."""
    parts = []
    for table in tables:
        frame = _texts(table, ("{}", r"\textbf{{{}}}", r"\underline{{{}}}"), LATEX_ESCAPES)
        notes = [f"% {note}\n" for note in _notes(table)]
        body = frame.style.hide(axis="index").to_latex(
            caption=table.title.translate(LATEX_ESCAPES), column_format="l" * len(table.columns), hrules=True
        )
        parts.append("".join(notes) + body)
    return "\n".join(parts)


def _texts(table: Table, marks: Sequence[str], escapes: dict[int, str]) -> pd.DataFrame:
    """The cells as escaped texts; ``marks`` holds the format of an unmarked, a best and a second number."""
    rows = [
        [marks[cell.place].format(number(cell).translate(escapes)) + beside(cell) for cell in row] for row in table.rows
    ]
    return pd.DataFrame(rows, columns=[column.translate(escapes) for column in table.columns])


def _notes(table: Table) -> list[str]:
    """The notes, each in one line."""
    return [" ".join(note.split()) for note in table.notes]


def as_csv(tables: Sequence[Table]) -> str:
    """One line per number, with columns table, row, metric, mean, std, published, difference and place."""
    records = []
    for table in tables:
        for row in table.rows:
            name = " / ".join(cell.mean for cell in row if isinstance(cell.mean, str))
            for column, cell in zip(table.columns, row, strict=True):
                if not isinstance(cell.mean, str):
                    difference = None if cell.published is None or cell.second_hand else cell.mean - cell.published
                    numbers = (cell.mean, cell.std, cell.published, difference, cell.place or None)
                    records.append((table.title, name, column, *numbers))
    columns = ["table", "row", "metric", "mean", "std", "published", "difference", "place"]
    frame = pd.DataFrame(records, columns=columns)
    frame = frame.astype({"std": float, "published": float, "difference": float, "place": "Int64"})
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def show(tables: Sequence[Table], console: Console) -> None:
    """Print the tables on the terminal."""
    for table in tables:
        drawn = RichTable(title=table.title, caption="\n".join(table.notes), caption_justify="left")
        for column in table.columns:
            drawn.add_column(column.replace("_", " "), no_wrap=column == "model")
        for row in table.rows:
            drawn.add_row(*(Text(number(cell), TERMINAL_STYLES[cell.place]) + Text(beside(cell)) for cell in row))
        console.print(drawn)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {"md": markdown, "tex": latex, "csv": as_csv}


def write(tables: Sequence[Table], output: Path) -> list[Path]:
    """Write ``tables.md``, ``tables.tex`` and ``tables.csv``."""
    texts = {output / f"tables.{suffix}": form(tables).encode() for suffix, form in FORMATS.items()}
    for path, text in texts.items():
        write_whole(path, methodcaller("write", text))
    return list(texts)
