# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Runs all jobs of a grid through joblib; each result is on disk as soon as its run has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib

from anomalib_aprilgan.comparison.datasets import check_references, prepare_categories
from anomalib_aprilgan.comparison.fingerprints import Categories, Fingerprints, check_unmixed, facts_of
from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.comparison.models import possible_shots
from anomalib_aprilgan.comparison.progress import RunsProgress, showing_progress
from anomalib_aprilgan.comparison.results import FILE, Row, append_row, finished, locked, read_rows, repair
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.comparison.thumbnails import Thumbnails, save_thumbnails, thumbnails_path
from anomalib_aprilgan.comparison.training import training_fingerprints, with_adapters

BACKENDS = ("loky", "ray", "dask")
PORTION = 4  # runs per worker of Ray


def run_grid(grid: Grid, output: Path, backend: str = "loky", n_jobs: int = 1) -> list[Row]:
    """Run the jobs whose results are not in ``output`` yet, and return the rows of the failed ones.

    Args:
        grid: The comparison.
        output: Folder of the results.
        backend: joblib's: "loky", "ray" or "dask".
        n_jobs: Runs at the same time; -1: as many as there are workers.

    Raises:
        ValueError: If a class, argument or category of the grid is wrong, or ``output`` has results of other settings.
        FileNotFoundError: If a data set is not on disk.
        ImportError: If the backend is not installed.
    """
    if backend not in BACKENDS:
        msg = f"`backend` must be one of {BACKENDS}, got {backend!r}."
        raise ValueError(msg)
    possible = {name: possible_shots(spec, grid.shots, name) for name, spec in grid.models.items()}
    with showing_progress() as progress:
        categories = {name: prepare_categories(spec, name) for name, spec in grid.datasets.items()}
        jobs = grid.jobs(categories, possible)
        check_references(jobs, categories)
        training = training_fingerprints(grid)
        with locked(output):
            return _run_missing(grid, output, jobs, categories, training, progress, backend, n_jobs)


def _run_missing(
    grid: Grid,
    output: Path,
    jobs: Sequence[Job],
    categories: Categories,
    training: Mapping[str, Fingerprints],
    progress: RunsProgress,
    backend: str,
    n_jobs: int,
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
    ready = with_adapters(grid, output, training, {job.model for job in jobs})
    for job, row, thumbnails in _results(grid, ready, jobs, backend, n_jobs):
        row.update(now[job])
        check_unmixed([row], [facts_of(job, grid, categories, training)], str(path))  # files may change meanwhile
        if thumbnails is not None:
            save_thumbnails(thumbnails_path(output, job), thumbnails)
        append_row(path, row)
        if row["status"] != "ok":
            failed.append(row)
            progress.console.print(f"Failed: {job}: {row['error']}", markup=False, highlight=False)
        progress.ended(job)
    return failed


def _results(
    grid: Grid, ready: Grid, jobs: Sequence[Job], backend: str, n_jobs: int
) -> Iterator[tuple[Job, Row, Thumbnails | None]]:
    """Job, row and thumbnails of each run, in the order in which the runs end."""
    settings = {(job.model, job.dataset): grid.settings(job.model, job.dataset) for job in jobs}
    # Ray's backend returns results only when all its jobs are done, so it gets them in portions.
    return_as = "list" if backend == "ray" else "generator_unordered"
    with workers(backend, n_jobs), joblib.Parallel(n_jobs=n_jobs, return_as=return_as) as parallel:
        portion = PORTION * joblib.effective_n_jobs(n_jobs) if backend == "ray" else len(jobs)
        for start in range(0, len(jobs), max(portion, 1)):
            calls = (joblib.delayed(_work)(ready, job) for job in jobs[start : start + portion])
            for job, row, thumbnails in parallel(calls):
                yield job, {**row, "settings": settings[job.model, job.dataset]}, thumbnails


def _work(grid: Grid, job: Job) -> tuple[Job, Row, Thumbnails | None]:
    return (job, *run_job(grid, job))


@contextlib.contextmanager
def workers(backend: str, n_jobs: int) -> Iterator[None]:
    """The workers of joblib: processes of this machine, or those of a Ray or Dask cluster.

    RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names the cluster; without them one is started on this machine.

    Raises:
        ImportError: If the backend is not installed.
    """
    with contextlib.ExitStack() as stack:
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
