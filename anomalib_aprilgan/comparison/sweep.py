# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A sweep: the runs of an AprilGan on one category share one pass over its test images.

What the frozen encoder says of an image depends on neither references nor seed. So each test image is encoded once and
scored for the target of each run.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from anomalib_aprilgan.comparison.collector import Predictions
from anomalib_aprilgan.comparison.decoded_files import DECODED
from anomalib_aprilgan.comparison.device import PeakMemory, choose_device, free_memory
from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.comparison.ground_truth import read_ground_truth
from anomalib_aprilgan.comparison.models import build_model, can_be_swept, is_april_gan
from anomalib_aprilgan.comparison.progress import PredictionProgress
from anomalib_aprilgan.comparison.results import Row
from anomalib_aprilgan.comparison.runs import (
    Outcome,
    judge,
    outcome,
    provenance,
    run_job,
    seeded_datamodule,
    silence,
    trainer_arguments,
)
from anomalib_aprilgan.comparison.shared_pass import Run, SharedPass
from anomalib_aprilgan.comparison.thumbnails import Thumbnails
from anomalib_aprilgan.components.graceful_shutdown import GracefulShutdown
from anomalib_aprilgan.data.references import choose_references, read_references, resolve_class_name
from anomalib_aprilgan.lightning_model import AprilGan
from anomalib_aprilgan.maps import score_bounds
from anomalib_aprilgan.target import RUN, Target

PIXEL = 4  # bytes
GIB = 2**30
Banks = tuple[Tensor, ...]


def run_portion(
    grid: Grid, jobs: Sequence[Job], limit: float | None = None, workers: int = 1
) -> tuple[Iterable[Outcome], list[Job], str]:
    """Run those jobs that can share a pass, or each alone if its model can't share one.

    Args:
        grid: The comparison.
        jobs: Of one model on one category, with a pool or without.
        limit: Bytes for maps and memory banks of all workers together; None: half of what is free.
        workers: That share the limit.

    Returns:
        Rows and thumbnails, each made when it is asked for; the jobs that need another pass; and why they do.
    """
    grid = grid.for_job(jobs[0])
    DECODED.set_limit(limit, workers)
    sweep = _prepared(grid, jobs, limit, workers) if is_april_gan(grid.models[jobs[0].model], jobs[0].model) else None
    if sweep is None:
        return (run_job(grid, job) for job in jobs), [], ""
    sweep.predict()
    return sweep.outcomes(), sweep.rest, sweep.why


def _prepared(grid: Grid, jobs: Sequence[Job], limit: float | None, workers: int) -> Sweep | None:
    """The sweep; None if the model can't share a pass, or if runs would fail: each alone then records its error."""
    try:
        with silence():
            model = build_model(grid, jobs[0].model, jobs[0].dataset, [], jobs[0].category)
            return Sweep(grid, jobs, model, limit, workers) if can_be_swept(model, grid.trainer) else None
    except Exception:  # noqa: BLE001 - whatever a model or data module raises
        return None


class Sweep:
    """Runs of a model on one category that share a pass over its test images.

    Args:
        grid: The comparison.
        jobs: Of one model on one category. Those with the same test images as the first are taken, as many as the
            limit allows.
        model: That ``can_be_swept``.
        limit: Bytes for maps and memory banks of all workers together; None: half of what is free.
        workers: That share the limit.
    """

    def __init__(self, grid: Grid, jobs: Sequence[Job], model: AprilGan, limit: float | None, workers: int) -> None:
        self.grid, self.model = grid, model
        self._start, self.seconds = time.perf_counter(), 0.0
        self.device = choose_device(grid.trainer.get("accelerator", "auto"))
        self.memory = PeakMemory(self.device)
        model.to(self.device)
        modules = {job.seed: seeded_datamodule(grid, job) for job in {job.seed: job for job in jobs}.values()}
        images = {seed: list(module.test_data.samples.image_path) for seed, module in modules.items()}
        self.datamodule = modules[jobs[0].seed]
        same = [job for job in jobs if images[job.seed] == images[jobs[0].seed]]
        self.runs = [Run(job, Predictions(grid.mask_size)) for job in same]
        for run in self.runs:
            with run.recorded():
                run.references = choose_references(run.job.shots, None, modules[run.job.seed], run.job.seed)
        self.why = "" if len(same) == len(jobs) else "The test images depend on the seed."
        self._bank = functools.cache(self._make_bank)
        self._fit(len(images[jobs[0].seed]), limit, workers)
        self.rest = [job for job in jobs if job not in {run.job for run in self.runs}]
        self.zero_shot = self._set_targets()

    def _make_bank(self, path: str) -> Banks:
        return self.model.model.encode_references(read_references([path], self.model.reference_transform))

    def _fit(self, n_images: int, limit: float | None, workers: int) -> None:
        """Leave only as many runs as the limit allows."""
        maps = n_images * self.grid.mask_size**2 * PIXEL
        bank = 2 * self._bank_size()  # a reference's own, for several runs, and its copy in a target
        needed = [(maps, len(run.references) * bank) for run in self.runs]
        costs = np.cumsum(np.asarray(needed, dtype=float), axis=0)
        if self.device.type == "cpu":
            costs = costs.sum(axis=1, keepdims=True)
        free = free_memory(self.device)[: costs.shape[1]]
        limits = np.asarray([bytes_free / 2 if limit is None else limit for bytes_free in free]) / workers
        fitting = count_fitting(costs, limits)
        if fitting < len(self.runs):
            gib = [f"{value / GIB:.2g}" for value in (costs[-1].sum(), limits.min())]
            self.why = f"Maps and memory banks of {len(self.runs)} runs need {gib[0]} GiB, {gib[1]} are allowed."
        self.runs = self.runs[:fitting]

    def _bank_size(self) -> int:
        """Bytes of the memory banks of one reference image."""
        for path in (path for run in self.runs for path in run.references):
            with contextlib.suppress(Exception):  # the runs that need this file will tell
                return sum(bank.nbytes for bank in self._bank(path))
        return 0

    def _set_targets(self) -> Target:
        """Give each run its target; returns the one without references."""
        name = resolve_class_name(self.model.request, self.datamodule, None, RUN)
        zero_shot = self.model.model.make_target(name)
        for run in self.runs:
            with run.recorded():
                parts = [self._bank(path) for path in run.references]
                run.target = replace(zero_shot, banks=tuple(torch.cat(bank) for bank in zip(*parts, strict=True)))
        self._bank.cache_clear()
        return zero_shot

    def predict(self) -> None:
        """Pass over the test images once, for all runs."""
        arguments = {**trainer_arguments(self.device), "enable_checkpointing": False, **self.grid.trainer}
        with silence(), tempfile.TemporaryDirectory() as folder, DECODED.reading(self.datamodule.test_data):
            try:
                trainer = Trainer(
                    callbacks=[GracefulShutdown(), PredictionProgress()], default_root_dir=folder, **arguments
                )
                shared = SharedPass(self.model, self.zero_shot, self.runs)
                trainer.predict(shared, datamodule=self.datamodule, return_predictions=False)
                shared.runs = ()  # the model keeps the trainer until its next run, and so all that it knows
            except Exception as error:  # noqa: BLE001 - it is the result of all runs
                for run in self.runs:
                    run.error = run.error or error
        self.seconds = time.perf_counter() - self._start

    def outcomes(self) -> Iterator[Outcome]:
        """The rows and thumbnails of the runs, one by one."""
        for run in self.runs:
            yield outcome(self.grid, run.job, functools.partial(self._judge, run))

    def _judge(self, run: Run) -> tuple[Row, Thumbnails | None]:
        if run.error is not None or run.target is None:
            raise run.error or RuntimeError
        text, peaks = torch.cat(run.predictions.scores), torch.cat(run.peaks)
        truth = read_ground_truth(self.datamodule, run.predictions.paths, self.grid.mask_size)
        bounds = score_bounds(peaks, self.model.model.map_upper_bound(run.target))
        if not truth.has_both_kinds:  # as after a validation
            bounds = torch.full_like(bounds, torch.nan)
        target = replace(run.target, score_bounds=bounds)
        run.predictions.scores = [self.model.model.image_score(text, peaks, target)]
        body, thumbnails = judge(self.grid, run.job, run.predictions, self.datamodule)
        run.target = None  # its memory banks are free
        shared = {"sweep_seconds": self.seconds, "sweep_runs": len(self.runs)}
        made_with = provenance(self.datamodule, run.references, self.model, self.memory)
        return {**body, **shared, **made_with}, thumbnails


def count_fitting(costs: NDArray, limits: NDArray) -> int:
    """How many runs fit, at least one: of the costs (R, M) of the first 1 to R runs in M memories with limits (M,)."""
    return max(1, int((costs <= limits).all(axis=1).sum()))
