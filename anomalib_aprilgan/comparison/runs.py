# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""One run of the comparison: a model on a category with its references, through anomalib's Engine."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from lightning import seed_everything
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.collector import PredictionCollector, Predictions
from anomalib_aprilgan.comparison.datasets import build_datamodule, keep_references
from anomalib_aprilgan.comparison.decoded_files import DECODED
from anomalib_aprilgan.comparison.device import PeakMemory, choose_device, device_name
from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.comparison.ground_truth import GroundTruth, read_ground_truth
from anomalib_aprilgan.comparison.image_scores import SCORES, score_rows
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS, image_metrics, pixel_metrics
from anomalib_aprilgan.comparison.models import build_model, set_target
from anomalib_aprilgan.comparison.progress import PredictionProgress
from anomalib_aprilgan.comparison.provenance import adapters_digest, relative_paths, versions
from anomalib_aprilgan.comparison.results import KEY, Row
from anomalib_aprilgan.comparison.thumbnails import Thumbnails, make_thumbnails
from anomalib_aprilgan.data.listing import leave_hidden_out_of
from anomalib_aprilgan.data.references import choose_references
from anomalib_aprilgan.lightning_model import AprilGan

QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


Outcome = tuple[Job, Row, Thumbnails | None]


def run_job(grid: Grid, job: Job) -> Outcome:
    """The row of results of a run, and its thumbnails if it keeps any; a failed run has a row with its error."""
    return outcome(grid, job, lambda: _run(grid, job))


def outcome(grid: Grid, job: Job, run: Callable[[], tuple[Row, Thumbnails | None]]) -> Outcome:
    """What ``run`` returns, with the facts of each row; an error that it raises is the result of a failed run.

    Args:
        grid: The comparison.
        job: The run.
        run: Makes the rest of its row, and its thumbnails if it keeps any.
    """
    head = {
        **{name: getattr(job, name) for name in KEY},
        "model_class": grid.models[job.model].class_path.rpartition(".")[-1],
        "data_class": grid.datasets[job.dataset].class_path.rpartition(".")[-1],
        "versions": versions(),
    }
    try:
        with silence():
            body, thumbnails = run()
        result = {"status": "ok", "error": None, **body}
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the result of its run
        frames = traceback.format_exception(error)
        result = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": "".join(frames)}
        thumbnails = None
    return job, {**head, **result, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")}, thumbnails


def _run(grid: Grid, job: Job) -> tuple[Row, Thumbnails | None]:
    datamodule = seeded_datamodule(grid, job)
    references = choose_references(max(job.shots, 0), None, datamodule, job.seed)
    keep_references(datamodule, references)
    device = choose_device(grid.trainer.get("accelerator", "auto"))
    memory = PeakMemory(device)
    model = build_model(grid, job.model, job.dataset, references, job.category)
    if isinstance(model, AprilGan):
        set_target(model, datamodule, references, device)
    predictions = predict(model, datamodule, grid, device)
    body, thumbnails = judge(grid, job, predictions, datamodule)
    return {**body, **provenance(datamodule, references, model, memory)}, thumbnails


def seeded_datamodule(grid: Grid, job: Job) -> AnomalibDataModule:
    """The data module of a run, set up with the run's seed."""
    seed_everything(job.seed, workers=True, verbose=False)
    datamodule = build_datamodule(grid.datasets[job.dataset], job.category)
    datamodule.setup(TrainerFn.FITTING)  # reads the lists of images; the trainer does not read them again
    leave_hidden_out_of(datamodule)
    return datamodule


def judge(
    grid: Grid, job: Job, predictions: Predictions, datamodule: AnomalibDataModule
) -> tuple[Row, Thumbnails | None]:
    """Metrics and speed of a run, and its thumbnails if it keeps any.

    Args:
        grid: The comparison.
        job: The run.
        predictions: For the test images. Their maps are forgotten here.
        datamodule: Of the test images.
    """
    truth = read_ground_truth(datamodule, predictions.paths, grid.mask_size)
    maps = predictions.take_maps()
    scores = torch.cat(predictions.scores).numpy()
    row = {
        "n_images": len(truth.labels),
        "n_abnormal": int(truth.labels.sum()),
        "mask_size": grid.mask_size,
        SCORES: score_rows(predictions.paths, scores, truth.labels),  # before they are sorted
        **measure(scores, maps, truth),
        "seconds_per_image": predictions.seconds_per_image,
    }
    if maps is None or not grid.thumbnails or job.seed != grid.seeds[0]:
        return row, None
    return row, make_thumbnails(predictions.paths, maps, truth, grid.thumbnails)


def provenance(
    datamodule: AnomalibDataModule, references: Sequence[str], model: AnomalibModule, memory: PeakMemory
) -> Row:
    """What a run was made with and on, and its peak memory.

    Args:
        datamodule: Of the references.
        references: Paths of the reference images.
        model: That made the predictions.
        memory: Made before the run.
    """
    return {
        "peak_memory_mib": memory.mebibytes(),
        "memory_kind": memory.kind,
        "device": device_name(memory.device),
        "references": relative_paths(references, datamodule),
        "adapters_sha256": adapters_digest(model),
    }


def measure(scores: NDArray, maps: NDArray | None, truth: GroundTruth) -> dict[str, float | None]:
    """Return all metrics; None for those that are undefined or need missing maps or masks.

    Args:
        scores: Raw image scores (B,).
        maps: Raw anomaly maps (B, H, W), or None.
        truth: Labels (B,), and masks (B, H, W) or None.

    Raises:
        ValueError: If a score is not finite, or all images are normal or all abnormal.
    """
    values = dict.fromkeys([*IMAGE_METRICS, *PIXEL_METRICS], math.nan) | image_metrics(scores, truth.labels)
    if maps is not None and truth.masks is not None:
        values |= pixel_metrics(maps, truth.masks, truth.weights)
    return {name: None if math.isnan(value) else value for name, value in values.items()}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress progress bars, logs and warnings of libraries, which would repeat for each run."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def predict(model: AnomalibModule, datamodule: AnomalibDataModule, grid: Grid, device: torch.device) -> Predictions:
    """Train the model if it needs training, then predict all test images.

    Args:
        model: One that is set up, or that the Engine sets up.
        datamodule: One that is set up; its training images are the references.
        grid: The comparison, for ``mask_size`` and ``trainer``.
        device: Where to run.
    """
    predictions = Predictions(grid.mask_size)
    arguments = trainer_arguments(device)
    trained = model.learning_type not in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}
    trained = trained and not getattr(model, "uses_pool", False)  # it may do without adapters
    scales_scores = isinstance(model, AprilGan) and model.model.target.is_few_shot  # by the range of the maps
    if isinstance(model, MemoryBankMixin) or not (trained or scales_scores):
        arguments["limit_val_batches"] = 0  # it would only look for thresholds, which raw scores do not need
    with tempfile.TemporaryDirectory() as folder, DECODED.reading(datamodule.test_data):
        callbacks = [PredictionCollector(predictions), PredictionProgress()]
        engine = Engine(callbacks=callbacks, default_root_dir=folder, **{**arguments, **grid.trainer})
        if trained:
            engine.fit(model, datamodule=datamodule)
        engine.predict(model, datamodule=datamodule, return_predictions=False)
    return predictions


def trainer_arguments(device: torch.device) -> dict[str, Any]:
    """Arguments of a quiet Trainer on a device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return {**QUIET, "accelerator": accelerator, "devices": [device.index] if device.index else 1}
