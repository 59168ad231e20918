# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Runs all jobs of a grid through joblib; each result is on disk as soon as its run has ended."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib
from rich.console import Console

from anomalib_aprilgan.comparison.datasets import check_references, prepare_categories
from anomalib_aprilgan.comparison.decoded_files import DECODED
from anomalib_aprilgan.comparison.fingerprints import Categories, Fingerprints, check_unmixed, facts_of
from anomalib_aprilgan.comparison.grid import POOL, Grid, Job
from anomalib_aprilgan.comparison.image_scores import SCORES, save_scores, scores_path
from anomalib_aprilgan.comparison.models import is_april_gan, possible_shots
from anomalib_aprilgan.comparison.progress import RunsProgress, showing_progress
from anomalib_aprilgan.comparison.results import FILE, Row, append_row, finished, locked, read_rows, repair
from anomalib_aprilgan.comparison.runs import Outcome
from anomalib_aprilgan.comparison.sweep import GIB, run_portion
from anomalib_aprilgan.comparison.thumbnails import save_thumbnails, thumbnails_path
from anomalib_aprilgan.comparison.training import training_fingerprints, with_adapters

BACKENDS = ("loky", "ray", "dask")
PORTION = 4  # tasks per worker of Ray


def run_grid(
    grid: Grid, output: Path, backend: str = "loky", n_jobs: int = 1, memory_limit: float | None = None
) -> list[Row]:
    """Run the jobs whose results are not in ``output`` yet, and return the rows of the failed ones.

    Args:
        grid: The comparison.
        output: Folder of the results.
        backend: joblib's: "loky", "ray" or "dask".
        n_jobs: Workers; -1: as many as there are.
        memory_limit: GiB for maps and memory banks of the runs that all workers have at hand, and a quarter of it for
            decoded images, first those of trainings; None: half, and an eighth (in trainings: half), of what is free.

    Raises:
        ValueError: If a class, argument or category of the grid is wrong, or ``output`` has results of other settings.
        FileNotFoundError: If a data set is not on disk.
        ImportError: If the backend is not installed.
    """
    if backend not in BACKENDS:
        msg = f"`backend` must be one of {BACKENDS}, got {backend!r}."
        raise ValueError(msg)
    if memory_limit is not None and not memory_limit > 0:
        msg = f"`memory_limit` must be a number of GiB above 0, got {memory_limit}."
        raise ValueError(msg)
    possible = {name: possible_shots(spec, grid.shots, name) for name, spec in grid.models.items()}
    with showing_progress() as progress:
        categories = {name: prepare_categories(spec, name) for name, spec in grid.datasets.items()}
        jobs = grid.jobs(categories, possible)
        check_references(jobs, categories)
        training = training_fingerprints(grid)
        with locked(output):
            return _run_missing(grid, output, jobs, categories, training, progress, (backend, n_jobs, memory_limit))


def _run_missing(
    grid: Grid,
    output: Path,
    jobs: Sequence[Job],
    categories: Categories,
    training: Mapping[str, Fingerprints],
    progress: RunsProgress,
    how: tuple[str, int, float | None],
) -> list[Row]:
    path = output / FILE
    repair(path)
    rows = read_rows(path) if path.exists() else []
    done = finished(rows, grid)
    now = {job: facts_of(job, grid, categories, training) for job in jobs}
    check_unmixed(rows, now.values(), str(path))
    jobs = [job for job in now if job not in done]
    failed = []
    progress.begin(len(jobs), len(done))
    memory = None if how[-1] is None else how[-1] * GIB / 4
    ready = with_adapters(grid, output, training, {job.model for job in jobs}, memory)
    for job, row, thumbnails in _results(ready, jobs, *how, progress.console):
        row.update(now[job], settings=grid.settings(job.model, job.dataset))
        check_unmixed([row], [facts_of(job, grid, categories, training)], str(path))  # files may change meanwhile
        if thumbnails is not None:
            save_thumbnails(thumbnails_path(output, job), thumbnails)
        if SCORES in row:
            save_scores(scores_path(output, job), row.pop(SCORES))
        append_row(path, row)
        if row["status"] != "ok":
            failed.append(row)
            progress.console.print(f"Failed: {job}: {row['error']}", markup=False, highlight=False)
        progress.ended(job)
    return failed


def _results(
    grid: Grid, jobs: Sequence[Job], backend: str, n_jobs: int, memory_limit: float | None, console: Console
) -> Iterator[Outcome]:
    """Job, row and thumbnails of each run, in the order in which the runs end."""
    tasks = _tasks(grid, jobs)
    # Ray's backend returns results only when all its tasks are done, so it gets them in portions.
    return_as = "list" if backend == "ray" else "generator_unordered"
    with workers(backend, n_jobs), joblib.Parallel(n_jobs=n_jobs, return_as=return_as) as parallel:
        n_workers = joblib.effective_n_jobs(n_jobs)
        limit = None if memory_limit is None else memory_limit * GIB * 3 / 4  # the rest is for decoded files
        # In this process, a row is on disk before the next one is made; another process sends all its rows at once.
        in_process = backend == "loky" and n_workers == 1
        work = joblib.delayed(partial(run_portion if in_process else _work, grid, limit=limit, workers=n_workers))
        while tasks:
            portion = PORTION * n_workers if backend == "ray" else len(tasks)
            now, tasks = tasks[:portion], tasks[portion:]
            for outcomes, rest, why in parallel(work(task) for task in now):
                yield from outcomes
                if rest:
                    first = f"{rest[0].model}, {rest[0].dataset}/{rest[0].category}"
                    console.print(f"{first}: {len(rest)} runs need another pass. {why}", markup=False, highlight=False)
                    tasks.append(rest)


def _tasks(grid: Grid, jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs of an AprilGan on one category together, since they can share a pass; each other run alone."""
    shared = {name for name, spec in grid.models.items() if is_april_gan(spec, name)}
    together = itertools.groupby(jobs, lambda job: (job.model, job.dataset, job.category, job.shots == POOL))
    groups = [list(group) for _, group in together]
    return [part for group in groups for part in ([group] if group[0].model in shared else [[job] for job in group])]


def _work(grid: Grid, jobs: Sequence[Job], limit: float | None, workers: int) -> tuple[list[Outcome], list[Job], str]:
    outcomes, rest, why = run_portion(grid, jobs, limit, workers)
    return list(outcomes), rest, why


@contextlib.contextmanager
def workers(backend: str, n_jobs: int) -> Iterator[None]:
    """The workers of joblib: processes of this machine, or those of a Ray or Dask cluster.

    RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names the cluster; without them one is started on this machine.

    Raises:
        ImportError: If the backend is not installed.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(DECODED.clear)  # those of this process, if it is the only worker
        if backend == "dask":
            client = _import("distributed", backend).Client
            address = {} if _import("dask", backend).config.get("scheduler-address", None) else {"n_workers": n_jobs}
            stack.enter_context(client(**address, **({"threads_per_worker": 1} if address else {})))
        elif backend == "ray":
            _import("ray.util.joblib", backend).register_ray()
        with joblib.parallel_config(backend=backend):
            yield


def _import(module: str, backend: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        msg = f"`backend` {backend!r} needs a package that is missing: pip install 'anomalib-aprilgan[{backend}]'."
        raise ImportError(msg) from error
