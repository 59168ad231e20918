# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pipelines with AprilGan: the benchmark beside models of its own, and tiled ensembles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from anomalib.models import Padim
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.base import Pipeline, pipeline

from anomalib_aprilgan import AprilGan
from conftest import BOLT

RunPipeline = Callable[[Pipeline, dict], None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunPipeline:
    """Runs a pipeline of anomalib in tmp_path; it leaves the log of other tests alone."""
    monkeypatch.setattr(pipeline, "redirect_logs", lambda path: path)
    monkeypatch.chdir(tmp_path)

    def run(pipeline: Pipeline, config: dict) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        pipeline.run(SimpleNamespace(config="config.yaml"))

    return run


def metrics_of(model: type) -> set[str]:
    return {metric.name for metric in model.configure_evaluator().test_metrics}


@pytest.mark.filterwarnings(  # of Padim: it trains nothing, and measures maps without masks
    "ignore:`LightningModule.configure_optimizers` returned `None`", "ignore:The ``compute`` method of metric"
)
def test_benchmark_of_models_with_different_metrics(run: RunPipeline, tiny_arguments: dict, tmp_path: Path) -> None:
    """With and without masks: one row for each run, with what it can be measured by."""
    padim = {"pre_trained": False, "layers": ["layer1"], "n_features": 5}
    arguments = {"anomalib_aprilgan.AprilGan": {**tiny_arguments, "class_name": "bolt"}, "Padim": padim}
    models = [{"class_path": path, "init_args": {**each, "visualizer": False}} for path, each in arguments.items()]
    parts = {"name": "parts", "root": str(BOLT), "normal_dir": "train/good", "normal_test_dir": "test/good"}
    parts |= {"abnormal_dir": "test/scratch", "num_workers": 0, "val_split_mode": "same_as_test"}
    parts |= {"mask_dir": {"grid": [None, "ground_truth/scratch"]}}
    jobs = {"seed": 0, "model": {"grid": models}, "data": {"class_path": "Folder", "init_args": parts}}
    run(Benchmark(), {"accelerator": "cpu", "benchmark": jobs})
    table = pd.read_csv(next(tmp_path.glob("runs/benchmark/*/results.csv"))).set_index("model.class_path")
    assert list(table.index) == [*arguments] * 2
    for model in (AprilGan, Padim):
        names = metrics_of(model)
        plain, masked = (
            set(row.filter(regex="^(image|pixel)_").dropna().index)
            for _, row in table[table.index.str.endswith(model.__name__)].iterrows()
        )
        assert plain == {name for name in names if name.startswith("image_")}
        assert masked == names
    # Thresholds were set for the largest F1 score on the same images.
    ours = table.loc["anomalib_aprilgan.AprilGan"].iloc[1]
    assert ours["image_F1Score"] == pytest.approx(ours["image_F1Max"])
    assert ours["pixel_F1Score"] == pytest.approx(ours["pixel_F1Max"], abs=1e-4)
