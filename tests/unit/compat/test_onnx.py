# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for exports to ONNX: each still needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anomalib.models.components.base.export_mixin import ExportMixin

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.compat.onnx import OPSET
from anomalib_aprilgan.components import export


def test_anomalib_asks_for_an_old_version(
    tiny_arguments: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(export, "hide_outputs", lambda *_: None)  # nothing is written
    monkeypatch.setattr(torch.onnx, "export", lambda **options: asked.append(options["opset_version"]))
    model = AprilGan(**tiny_arguments, class_name="bolt", visualizer=False)
    model.prepare()
    ExportMixin.to_onnx(model, tmp_path)
    model.to_onnx(tmp_path)
    assert asked == [14, OPSET]
