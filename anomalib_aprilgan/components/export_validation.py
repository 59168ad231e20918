# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""An exported file against the model that it was made from, on the same images."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anomalib_aprilgan.components.export import require
from anomalib_aprilgan.components.export_runtimes import RAW, RUNTIMES, Outputs, Run, run_module
from anomalib_aprilgan.data.images import read_image, readable
from anomalib_aprilgan.data.listing import image_files

COMPARED = {
    "raw_score": "raw score",
    "raw_map": "raw map",
    "pred_score": "normalised score",
    "anomaly_map": "normalised map",
}
# What a runtime needs: modules, and our extra that brings them.
NEEDED: dict[str, tuple[tuple[str, ...], str]] = {
    ".pt": ((), ""),
    ".onnx": (("onnx", "onnxruntime"), "onnx"),
    ".xml": (("openvino",), "openvino"),
}
NAMES = {False: "normal", True: "abnormal"}


@dataclass(frozen=True)
class Limits:
    """What may differ at most between an export and its model.

    Args:
        score: Raw scores.
        map: Pixels of raw maps.
        decisions: Number of images that are called normal by one and abnormal by the other, and whose normalised scores
            differ by more than ``score``.
    """

    score: float
    map: float
    decisions: int


@dataclass(frozen=True)
class Comparison:
    """An export beside its model.

    Args:
        images: One row per image: file, largest and mean difference of each value, both decisions, both times in ms.
        threads: Of both.
        megabytes: Of the file and of those that belong to it.
        memory: By how many megabytes the process grew when it loaded and ran the export.
    """

    images: pd.DataFrame
    threads: int
    megabytes: float
    memory: float

    def faults(self, limits: Limits) -> list[str]:
        """What exceeds the limits, in words."""
        found = [
            f"{COMPARED[name]}s differ by up to {largest:.2g}, more than {limit:g}"
            for name, limit in (("raw_score", limits.score), ("raw_map", limits.map))
            if not (largest := self.images[name].max(skipna=False)) <= limit
        ]
        # A score at the threshold may fall on either side of it by rounding.
        changed = sum(not row.pred_score <= limits.score for row in self._changed().itertuples())
        if changed > limits.decisions:
            found.append(f"{changed} decisions differ, more than {limits.decisions}")
        return found

    def lines(self) -> list[str]:
        """The report."""
        n_images = len(self.images)
        return [
            f"{n_images} images               largest difference    mean",
            *(self._difference(name, words) for name, words in COMPARED.items() if name in self.images),
            f"decisions that differ: {len(self._changed())} of {n_images}",
            *(f"  {row.file}: {NAMES[row.model]}, export {NAMES[row.export]}" for row in self._changed().itertuples()),
            f"ms per image, {self.threads} threads: export {self._time('export_ms')}, model {self._time('model_ms')}",
            f"size: {self.megabytes:.1f} MB, memory: {self.memory:.0f} MB",
        ]

    def _changed(self) -> pd.DataFrame:
        return self.images[self.images.model != self.images.export]

    def _difference(self, name: str, words: str) -> str:
        return f"{words:22}{self.images[name].max(skipna=False):18.2g}{self.images[f'{name}_mean'].mean():12.2g}"

    def _time(self, column: str) -> str:
        median, high = self.images[column].quantile([0.5, 0.95])
        return f"median {median:.1f}, 95th percentile {high:.1f}"


def images_of(source: Path) -> list[Path]:
    """The images of a folder and its folders, or one image.

    Raises:
        ValueError: If none can be read.
    """
    return readable(image_files(source))


def compare_export(
    export: Path, images: Sequence[Path], load_model: Callable[[], Any], precision: str, threads: int | None = None
) -> Comparison:
    """An export beside its model. It is loaded first, so that its memory is known.

    Args:
        export: The file: .pt, .onnx or .xml.
        images: To run both on, one at a time.
        load_model: Gives the AprilGan that was exported.
        precision: OpenVINO's: "f32" or "bf16".
        threads: Of both; None: torch's.

    Raises:
        ValueError: If the file is of another kind or has no raw scores.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the runtime is not installed.
    """
    files = _files(export)
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    modules, extra = NEEDED[export.suffix]
    for module in modules:
        require(module, extra)
    before = _peak_memory()
    run = RUNTIMES[export.suffix](export, precision, threads)
    _check(export, run(_read(images[0])))
    memory = _peak_memory() - before
    exported = load_model().eval()
    exported.prepare()
    model = run_module(exported)
    model(_read(images[0]))  # the first run of each is slower
    rows = pd.DataFrame([_row(path, model, run) for path in images])
    return Comparison(rows, threads, sum(file.stat().st_size for file in files) / 1e6, memory)


def _files(export: Path) -> list[Path]:
    if export.suffix not in RUNTIMES:
        msg = f"{export} is no export: expected a file that ends in {', '.join(RUNTIMES)}."
        raise ValueError(msg)
    if not export.is_file():
        msg = f"There is no file {export}."
        raise FileNotFoundError(msg)
    beside = (export.with_suffix(".bin"), export.with_name(f"{export.name}.data"))
    return [export, *(path for path in beside if path.is_file())]


def _check(export: Path, outputs: Outputs) -> None:
    missing = [name for name in RAW if name not in outputs]
    if missing:
        msg = f"{export} has no {', '.join(missing)}: export the model again with this version, and a post-processor."
        raise ValueError(msg)


def _read(path: Path) -> Tensor:
    return read_image(path).unsqueeze(0)


def _row(path: Path, model: Run, export: Run) -> dict[str, Any]:
    image = _read(path)
    expected, model_ms = _timed(model, image)
    actual, export_ms = _timed(export, image)
    row: dict[str, Any] = {"file": str(path), "model_ms": model_ms, "export_ms": export_ms}
    for name in COMPARED:
        difference = np.abs(expected[name].astype(float).ravel() - actual[name].astype(float).ravel())
        row[name], row[f"{name}_mean"] = difference.max(), difference.mean()
    labels = ("pred_label" in outputs and bool(outputs["pred_label"].item()) for outputs in (expected, actual))
    return {**row, **dict(zip(("model", "export"), labels, strict=True))}


def _timed(run: Run, image: Tensor) -> tuple[Outputs, float]:
    start = time.perf_counter()
    outputs = run(image)
    return outputs, 1000 * (time.perf_counter() - start)


def _peak_memory() -> float:
    """In megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
