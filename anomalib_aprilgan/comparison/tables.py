# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Tables: means and standard deviations over seeds, beside the published numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from anomalib_aprilgan.comparison.grid import shots_name
from anomalib_aprilgan.comparison.means import COSTS, METRICS, failures, measured, over_categories
from anomalib_aprilgan.comparison.published import Published, is_published, is_whole, published_number, read_table

TRACKS = {"zero-shot": "shots == 0", "few-shot": "shots > 0"}
# Columns of vand2023.csv, and our metrics.
BOARD_METRICS = {"overall": "VAND", "segmentation_F1Max": "pixel_F1Max", "classification_F1Max": "image_F1Max"}
BRACKETS = "In brackets: published mean, and measured less published; no difference to means that others only quote."
BOARD_NOTE = (
    "F1-max in percent; overall: mean over categories of the harmonic mean of both. The challenge's numbers are of its "
    "own test, measured ones of the data set named."
)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        mean: Over seeds, in percent; or a text.
        std: Sample standard deviation over seeds; None for one seed.
        published: Mean in percent.
        second_hand: Whether that is known only from papers that quote it; there is no difference to it then.
        place: 1 for the best of its block, 2 for the second, else 0.
        digits: Shown after the decimal point.
    """

    mean: float | str
    std: float | None = None
    published: float | None = None
    second_hand: bool = False
    place: int = 0
    digits: int = 1


@dataclass(frozen=True)
class Table:
    """Rows of cells with a title above and notes below."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def summary_tables(results: pd.DataFrame) -> list[Table]:
    """One table per data set: means over its categories."""
    means, notes = over_categories(measured(results), results)
    notes = [*notes, *failures(results)]
    tables = []
    for dataset, part in results.groupby("dataset", sort=False):
        title = f"{dataset}: mean over {part.category.nunique()} categories"
        own_notes = [note for note in notes if f" on {dataset}, " in note or f" on {dataset}/" in note]
        tables.append(_table(title, means[means.dataset == dataset], own_notes, results, _published_models(part)))
    return tables


def category_tables(results: pd.DataFrame) -> list[Table]:
    """One table per category."""
    runs = measured(results)
    return [
        _table(f"{dataset}: {category}", part, [], results)
        for (dataset, category), part in runs.groupby(["dataset", "category"], sort=False)
    ]


def _published_models(results: pd.DataFrame) -> set[str]:
    """The models of which numbers on this data set are published, with the arguments that they were run with."""
    categories = set(results.category)
    return {
        model
        for model, rows in results.groupby("model")
        if all(
            is_published(row["model_class"], row["data_class"], categories, row.get("arguments"))
            for row in rows.to_dict("records")
        )
    }


def _table(
    title: str, runs: pd.DataFrame, notes: list[str], results: pd.DataFrame, published: Collection[str] = ()
) -> Table:
    rows = []
    for shots in sorted(runs.shots.unique()):
        block = runs[runs.shots == shots]
        groups = list(block.groupby(["model", "model_class", "data_class"], sort=False))
        columns = []
        for name in METRICS:
            known = [
                published_number(key[1], key[2], shots, name) if key[0] in published else None for key, _ in groups
            ]
            columns.append(_ranked([_cell(part[name], value) for (_, part), value in zip(groups, known, strict=True)]))
        for (key, _), row in zip(groups, zip(*columns, strict=True), strict=True):
            rows.append([_shots(shots), Cell(key[0]), *row])
    sizes = sorted({int(size) for size in results.mask_size.dropna()})
    shown = any(cell.published is not None for row in rows for cell in row)
    notes = [
        f"Percent; mean ± sample standard deviation over seeds; maps and masks at {', '.join(map(str, sizes))} pixels.",
        *([BRACKETS] if shown else []),
        *_absent(runs),
        *notes,
    ]
    return Table(title, ["shots", "model", *METRICS], rows, notes)


def _shots(shots: int) -> Cell:
    return Cell(shots_name(shots).removesuffix("-shot"))


def _absent(runs: pd.DataFrame) -> list[str]:
    """A note for each number of references that some models were not run with."""
    notes = []
    for shots in sorted(runs.shots.unique()):
        names = sorted(set(runs.model) - set(runs[runs.shots == shots].model))
        if names:
            why = ", needing training images" if shots == 0 else ""
            notes.append(f"Not at {shots_name(shots)}{why}: {', '.join(names)}.")
    return notes


def _cell(values: pd.Series, published: Published | None = None) -> Cell:
    """Mean and standard deviation in percent of a metric's values, one per seed; NaN if one of them is."""
    percent = 100 * values.to_numpy()
    std = float(percent.std(ddof=1)) if len(percent) > 1 else None
    mean, second_hand = published or (None, False)
    return Cell(float(percent.mean()), std, mean, second_hand)


def _ranked(column: Sequence[Cell]) -> list[Cell]:
    """The cells of a block's column with their places, by the digits that are shown; no places if all are equal."""
    shown = [round(float(cell.mean), cell.digits) for cell in column]
    order = sorted({value for value in shown if not np.isnan(value)}, reverse=True)
    places = {value: place for place, value in enumerate(order[:2], start=1)} if len(order) > 1 else {}
    return [replace(cell, place=places.get(value, 0)) for cell, value in zip(column, shown, strict=True)]


def cost_table(results: pd.DataFrame) -> Table:
    """Seconds per image and peak memory of each model: means over all runs; they depend on the machine."""
    runs = measured(results)
    rows = []
    for (dataset, shots, model), part in runs.groupby(["dataset", "shots", "model"]):
        seconds, memory = (_cost(part[name], digits) for name, digits in zip(COSTS, (4, 0), strict=True))
        kinds = ", ".join(sorted(part.memory_kind.unique()))
        rows.append([Cell(str(dataset)), _shots(shots), Cell(str(model)), seconds, memory, Cell(kinds)])
    notes = [
        "Seconds of predicting, less the first batch. The memory of a process holds CLIPs of other models too.",
        f"On {', '.join(sorted(runs.device.unique()))}.",
    ]
    table = Table("Cost", ["dataset", "shots", "model", "seconds per image", "peak MiB", "memory of"], rows, notes)
    return _with_passes(table, runs) if "sweep_seconds" in runs else table


def _with_passes(table: Table, runs: pd.DataFrame) -> Table:
    """The table with a run's part of the pass that it shared with others."""
    passes = (runs.sweep_seconds / runs.sweep_runs).groupby([runs.dataset, runs.shots, runs.model])
    rows = [[*row, _cost(part, 2)] for row, (_, part) in zip(table.rows, passes, strict=True)]
    note = "Pass / runs: seconds of a pass that runs of an AprilGan share, references included, by their number."
    return replace(table, columns=[*table.columns, "pass / runs"], rows=rows, notes=[*table.notes, note])


def _cost(values: pd.Series, digits: int) -> Cell:
    return Cell(float(values.mean()), float(values.std()) if len(values) > 1 else None, digits=digits)


def vand_tables(results: pd.DataFrame) -> list[Table]:
    """The two leader boards of the VAND 2023 challenge with the runs on all of VisA among them, best first."""
    means, notes = over_categories(measured(results), results)
    on_visa = means.data_class.eq("Visa") & means.dataset.isin(_whole_datasets(results))
    left_out = sorted(set(means.dataset[~on_visa]))
    notes = [BOARD_NOTE, *(f"Left out: runs on {name}, which is not all of VisA." for name in left_out), *notes]
    boards = read_table("vand2023.csv")
    tables = []
    for track, query in TRACKS.items():
        rows = [
            [Cell(row.team), Cell("challenge"), *(Cell(100 * float(getattr(row, name))) for name in BOARD_METRICS)]
            for row in boards[boards.track == track].itertuples()
        ]
        for (dataset, shots, model), part in means[on_visa].query(query).groupby(["dataset", "shots", "model"]):
            cells = [_cell(part[name]) for name in BOARD_METRICS.values()]
            rows.append([Cell(f"{model}, {shots}-shot"), Cell(f"measured on {dataset}"), *cells])
        rows.sort(key=lambda row: -float(row[2].mean))
        columns = ["team or model", "source", "overall", "segmentation F1-max", "classification F1-max"]
        tables.append(Table(f"VAND 2023, {track} track", columns, rows, notes))
    return tables


def _whole_datasets(results: pd.DataFrame) -> set[str]:
    """The data sets of which all categories, and no others, are among the results."""
    return {
        dataset
        for (dataset, data_class), part in results.groupby(["dataset", "data_class"])
        if is_whole(data_class, part.category)
    }


def all_tables(results: pd.DataFrame) -> list[Table]:
    """All tables of the results; the challenge's only if runs are among them."""
    boards = vand_tables(results) if "Visa" in set(results.data_class) else []
    return [*summary_tables(results), *boards, cost_table(results), *category_tables(results)]


KINDS: dict[str, Callable[[pd.DataFrame], list[Table]]] = {
    "all": all_tables,
    "summary": summary_tables,
    "vand": vand_tables,
    "cost": lambda results: [cost_table(results)],
    "categories": category_tables,
}
