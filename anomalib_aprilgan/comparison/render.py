# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Tables as Markdown, LaTeX and CSV texts, and on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from anomalib_aprilgan.comparison.tables import Cell, Table

MISSING = "-"
TERMINAL_STYLES = {0: "", 1: "bold", 2: "underline"}
LATEX_ESCAPES = {char: "\\" + char for char in "&%$#_{}"} | {"±": r"$\pm$", "\\": r"\textbackslash{}"}


def number(cell: Cell, plus_minus: str = "±") -> str:
    """The measured part of a cell, such as "95.1 ± 0.1"."""
    if isinstance(cell.mean, str):
        return cell.mean
    if math.isnan(cell.mean):
        return MISSING
    text = f"{cell.mean:.{cell.digits}f}"
    return text if cell.std is None else f"{text} {plus_minus} {cell.std:.{cell.digits}f}"


def beside(cell: Cell) -> str:
    """The published part, such as " (95.2, -0.1)", or nothing."""
    if cell.published is None or isinstance(cell.mean, str):
        return ""
    difference = MISSING if math.isnan(cell.mean) else f"{cell.mean - cell.published:+.1f}"
    return f" ({cell.published:.1f}, {difference})"


def markdown(tables: Sequence[Table]) -> str:
    """Markdown: the best in bold, the second underlined."""
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"

    parts = []
    for table in tables:
        rows = [line([marks[cell.place].format(number(cell)) + beside(cell) for cell in row]) for row in table.rows]
        rule = "|" + "---|" * len(table.columns)
        notes = [f"- {' '.join(note.split())}" for note in table.notes]
        parts.append("\n".join([f"### {table.title}", "", line(table.columns), rule, *rows, "", *notes, ""]))
    return "\n".join(parts)


def latex(tables: Sequence[Table]) -> str:
    """LaTeX with the package booktabs."""
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    parts = []
    for table in tables:
        rows = [
            " & ".join(marks[cell.place].format(escape(number(cell))) + escape(beside(cell)) for cell in row) + r" \\"
            for row in table.rows
        ]
        notes = [f"% {' '.join(note.split())}" for note in table.notes]
        lines = [
            *notes,
            r"\begin{table}",
            rf"\caption{{{escape(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(map(escape, table.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def escape(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return "".join(LATEX_ESCAPES.get(char, char) for char in text)


def as_csv(tables: Sequence[Table]) -> str:
    """One line per number, with columns table, row, metric, mean, std, published, difference and place."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "row", "metric", "mean", "std", "published", "difference", "place"])
    for table in tables:
        for row in table.rows:
            name = " / ".join(cell.mean for cell in row if isinstance(cell.mean, str))
            for column, cell in zip(table.columns, row, strict=True):
                if not isinstance(cell.mean, str):
                    writer.writerow([table.title, name, column, *_values(cell), cell.place or ""])
    return stream.getvalue()


def _values(cell: Cell) -> list[str]:
    difference = None if cell.published is None else float(cell.mean) - cell.published
    values = (float(cell.mean), cell.std, cell.published, difference)
    return ["" if value is None or math.isnan(value) else f"{value:.6g}" for value in values]


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
    paths = []
    for suffix, form in FORMATS.items():
        paths.append(output / f"tables.{suffix}")
        paths[-1].write_text(form(tables), encoding="utf-8")
    return paths
