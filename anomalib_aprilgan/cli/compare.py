# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The subcommands of ``aprilgan`` about comparisons. Heavy imports are made by those that need them."""

from __future__ import annotations

import signal
import sys
from collections import UserDict
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import register_type

from anomalib_aprilgan.cli.errors import clear_errors

WIDTH = 200  # columns of a table that is written to a pipe


class Plain(UserDict[str, Any]):
    """A part of a configuration file that jsonargparse leaves as it is, without making objects of class paths."""


register_type(Plain, serializer=dict, deserializer=Plain)


def compare(
    *,
    models: dict[str, Plain],
    datasets: dict[str, Plain],
    output: Path,
    shots: list[int | Literal["pool"]],
    seeds: list[int],
    mask_size: int,
    pictures: int = 3,
    trainer: dict[str, Any] | None = None,
    backend: Literal["loky", "ray", "dask"] = "loky",
    n_jobs: int = 1,
    memory_limit: float | None = None,
) -> None:
    """Run models on data sets with the same reference images, and write results, tables and figures.

    Runs that are in the results already are not repeated, so a killed comparison resumes where it stopped. The exit
    code is 1 if a run failed.

    Args:
        models: By name: ``class_path``, ``init_args``, ``shots`` (the only ones it is run with), ``train`` (how to
            train the adapters of an AprilGan: ``data``, ``max_epochs``).
        datasets: By name: ``class_path``, ``init_args``, ``categories`` (default: all that are on disk).
        output: Folder of the results, tables and figures.
        shots: Numbers of reference images; pool: an AprilGan scores the test images by each other too.
        seeds: For the draws of references.
        mask_size: Height and width in pixels to which the anomaly maps of all models are resized.
        pictures: Test images per category that are kept with their maps for figures.
        trainer: Arguments of Lightning's Trainer.
        backend: joblib's: processes of this machine, or a Ray or Dask cluster.
        n_jobs: Workers; -1: as many as there are cores, or workers of the cluster.
        memory_limit: GiB for maps and memory banks of the runs that all workers have at hand, and a quarter of it for
            decoded images, first those of trainings; default: half, and an eighth (in trainings: half), of what is
            free. With less, an AprilGan passes more often over the test images.

    Raises:
        SystemExit: If a run failed, or with a message if the configuration is wrong.

    Example:
        ``aprilgan compare --config compare.yaml`` with this ``compare.yaml`` needs no download::

            models:
              AprilGan:
                class_path: anomalib_aprilgan.AprilGan
                init_args: {backbone: demo, pretrained: demo, image_size: 224}
                train: # the adapters, on other categories
                  data:
                    class_path: anomalib_aprilgan.AuxiliaryDataModule
                    init_args:
                      auxiliary: {class_path: anomalib_aprilgan.DemoDataModule}
                      categories: [gravel]
                  max_epochs: 1
              SPADE:
                class_path: anomalib_aprilgan.comparison.spade.Spade
                init_args: {backbone: resnet18, pre_trained: false} # random weights
            datasets:
              demo: {class_path: anomalib_aprilgan.DemoDataModule, categories: [coins]}
            output: results/example
            shots: [0, 2]
            seeds: [0]
            mask_size: 224
    """
    from anomalib_aprilgan.comparison.execution import run_grid  # noqa: PLC0415
    from anomalib_aprilgan.comparison.grid import Grid, read_datasets, read_models  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    # Lightning swallows this signal while it predicts, unless somebody handles it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with clear_errors():
        grid = Grid(read_models(models), read_datasets(datasets), shots, seeds, mask_size, pictures, trainer or {})
        failed = run_grid(grid, output, backend, n_jobs, memory_limit)
        if (read_results(output).status == "ok").any():
            table(output=output)
            figure(output=output)
    if failed:
        print(f"{len(failed)} runs failed; the next start tries them again.", file=sys.stderr)
        sys.exit(1)


def table(
    *,
    output: Path,
    kind: Literal["all", "summary", "vand", "cost", "categories"] = "summary",
    format: Literal["terminal", "md", "tex", "csv"] = "terminal",
) -> None:
    """Print tables of a comparison, and write all tables to ``tables.md``, ``tables.tex`` and ``tables.csv``.

    Args:
        output: Folder of the comparison.
        kind: What to print: means over categories, the VAND leader boards, time and memory, or each category.
        format: How to print it.

    Raises:
        SystemExit: With a message if there are no results that can be read.
    """
    from rich.console import Console  # noqa: PLC0415

    from anomalib_aprilgan.comparison import render, tables  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    with clear_errors():
        results = read_results(output)
        render.write(tables.all_tables(results), output)
        chosen = tables.KINDS[kind](results)
    if format == "terminal":
        # A pipe has no width: Rich would take 80 columns.
        render.show(chosen, Console(width=None if sys.stdout.isatty() else WIDTH))
    else:
        print(render.FORMATS[format](chosen), end="")


def figure(
    *,
    output: Path,
    models: list[str] | None = None,
    shots: list[int | Literal["pool"]] | None = None,
    metrics: list[str] | None = None,
) -> None:
    """Draw the figures of a comparison as PNG and PDF into its folder ``figures``.

    Args:
        output: Folder of the comparison.
        models: Those to draw; default: all.
        shots: Numbers of references to draw, or pool; default: all.
        metrics: Those to draw against the number of references; default: image_AUROC, pixel_F1Max and pixel_PRO.

    Raises:
        SystemExit: With a message if there are no results that can be read, or a name is unknown.
    """
    from anomalib_aprilgan.comparison import figures  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    with clear_errors():
        results = read_results(output)
        drawn = {
            **figures.shots_figures(results, metrics or figures.DEFAULT_METRICS, models, shots),
            **figures.map_figures(results, output, models, shots),
        }
        paths = figures.save(drawn, output)
    print(f"{len(paths)} files in {output / 'figures'}")
