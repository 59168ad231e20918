# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Runs exported files, and gives what the model said before the post-processor too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from anomalib.deploy import TorchInferencer
from numpy.typing import NDArray
from torch import Tensor

from anomalib_aprilgan.compat.onnx import session_with
from anomalib_aprilgan.components.plain_export import holds_code, load_export

RAW = ("raw_score", "raw_map")
Outputs = Mapping[str, NDArray]
Run = Callable[[Tensor], Outputs]  # of images (B, 3, H, W) in [0, 1]


def run_module(module: Any) -> Run:
    """Runs an AprilGan, exported or not."""

    def run(image: Tensor) -> Outputs:
        with torch.inference_mode():
            raw = module.model(module.pre_processor(image) if module.pre_processor else image)
            outputs = module.post_processor(raw) if module.post_processor else raw
        named = {**outputs._asdict(), **dict(zip(RAW, (raw.pred_score, raw.anomaly_map), strict=True))}
        return {name: value.numpy() for name, value in named.items() if value is not None}

    return run


def run_openvino(model: Any, precision: str = "f32", threads: int = 0) -> Run:
    """Runs a model of OpenVINO, which does not change.

    Args:
        model: As ``openvino.Core().read_model`` gives it.
        precision: "f32" or "bf16".
        threads: 0: as many as OpenVINO likes.
    """
    import openvino  # noqa: PLC0415  # an extra

    model = model.clone()
    named = {name for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    model.add_outputs([name for name in RAW if name in named])
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda image: {
        name: value for output, value in compiled(image.numpy()).items() for name in output.get_names()
    }


def _torch(path: Path, _precision: str, _threads: int) -> Run:
    return run_module(TorchInferencer(path, device="cpu").model if holds_code(path) else load_export(path))


def _onnx(path: Path, _precision: str, threads: int) -> Run:
    session = session_with(path, RAW, threads)
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(
        zip(names, session.run(names, {session.get_inputs()[0].name: image.numpy()}), strict=True)
    )


def _openvino(path: Path, precision: str, threads: int) -> Run:
    import openvino  # noqa: PLC0415  # an extra

    return run_openvino(openvino.Core().read_model(path), precision, threads)


RUNTIMES: dict[str, Callable[[Path, str, int], Run]] = {".pt": _torch, ".onnx": _onnx, ".xml": _openvino}
