# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""One run of the comparison: a model on a category with its references, through anomalib's Engine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import multiprocessing
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from lightning import seed_everything
from numpy.typing import NDArray

from anomalib_aprilgan.comparison.components import build_datamodule, build_model, set_up, show_only
from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS, image_metrics, pixel_metrics
from anomalib_aprilgan.comparison.predictions import Collector, PeakMemory, Truth, read_truth, small_pictures
from anomalib_aprilgan.comparison.results import KEY, Row
from anomalib_aprilgan.data.references import choose_references
from anomalib_aprilgan.lightning_model import AprilGan

Pictures = dict[str, NDArray]
PACKAGES = ("anomalib", "anomalib-aprilgan", "lightning", "open_clip_torch", "timm", "torch", "torchvision")


def run_job(grid: Grid, job: Job) -> tuple[Row, Pictures | None]:
    """The row of results of a run, and its pictures; a run that fails has a row with the error."""
    head = {
        **{name: getattr(job, name) for name in KEY},
        "model_class": grid.models[job.model].class_path.rpartition(".")[-1],
        "data_class": grid.datasets[job.dataset].class_path.rpartition(".")[-1],
        "versions": versions(),
    }
    try:
        with silence():
            body, pictures = _run(grid, job)
        outcome = {"status": "ok", "error": None, **body}
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the result of its run
        frames = traceback.format_exception(error)
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": "".join(frames)}
        pictures = None
    return {**head, **outcome, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")}, pictures


def _run(grid: Grid, job: Job) -> tuple[Row, Pictures | None]:
    seed_everything(job.seed, workers=True, verbose=False)
    datamodule = build_datamodule(grid.datasets[job.dataset], job.category)
    set_up(datamodule)
    references = choose_references(job.shots, None, datamodule, job.seed)
    show_only(datamodule, references)
    device = choose_device(grid.trainer.get("accelerator", "auto"))
    memory = PeakMemory(device)
    model = build_model(grid, job.model, job.dataset, references, job.category)
    collector = predict(model, datamodule, grid, device)
    truth = read_truth(datamodule, collector.paths, grid.mask_size)
    maps = torch.cat(collector.maps).numpy() if collector.maps else None
    row = {
        "n_images": len(truth.labels),
        "n_abnormal": int(truth.labels.sum()),
        "mask_size": grid.mask_size,
        **measure(torch.cat(collector.scores).numpy(), maps, truth),
        "seconds_per_image": collector.seconds_per_image,
        "peak_memory_mib": memory.mebibytes(),
        "memory_kind": memory.kind,
        "device": device_name(device),
        "references": relative_paths(references, datamodule),
        "adapters_sha256": adapters_digest(model),
    }
    if maps is None or not grid.pictures or job.seed != grid.seeds[0]:
        return row, None
    return row, small_pictures(collector, maps, truth, grid.pictures)


def measure(scores: NDArray, maps: NDArray | None, truth: Truth) -> dict[str, float | None]:
    """All metrics of the scores (B,) and maps (B, H, W); None for those that maps or masks are missing for."""
    values = image_metrics(scores, truth.labels)
    if maps is not None and truth.masks is not None:
        values.update(pixel_metrics(maps, truth.masks))
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return {name: known.get(name) for name in (*IMAGE_METRICS, *PIXEL_METRICS)}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without what libraries say about each of a thousand runs: bars on the terminal, logs and warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def predict(model: AnomalibModule, datamodule: AnomalibDataModule, grid: Grid, device: torch.device) -> Collector:
    """Train the model if it is to be trained, and predict all test images."""
    collector = Collector(grid.mask_size)
    arguments: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    arguments.update(
        accelerator="gpu" if device.type == "cuda" else "cpu", devices=[device.index] if device.index else 1
    )
    trained = model.learning_type not in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}
    if isinstance(model, MemoryBankMixin) or (not trained and model.post_processor is None):
        arguments["limit_val_batches"] = 0  # it would only look for thresholds, which nobody needs here
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(callbacks=[collector], default_root_dir=folder, **{**arguments, **grid.trainer})
        if trained:
            engine.fit(model, datamodule=datamodule)
        engine.predict(model, datamodule=datamodule, return_predictions=False)
    return collector


def choose_device(accelerator: str) -> torch.device:
    """The GPU of this worker: its own where each worker sees one, else by the worker's number; else the CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    number = re.search(r"(\d+)$", multiprocessing.current_process().name)  # such as LokyProcess-3
    return torch.device("cuda", int(number[1]) % torch.cuda.device_count() if number else 0)


def device_name(device: torch.device) -> str:
    """What the run was made on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """The installed versions of all packages that results depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def relative_paths(references: Sequence[str], datamodule: AnomalibDataModule) -> list[str]:
    """The references as they are named inside the data set, wherever it lies."""
    root = Path(getattr(datamodule, "root", None) or ".").resolve()
    resolved = [Path(path).resolve() for path in references]
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in resolved]


def adapters_digest(model: AnomalibModule) -> str | None:
    """SHA-256 of the adapters' weights, which tells which ones an AprilGan was run with."""
    if not isinstance(model, AprilGan):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.adapters.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
