# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pipelines with AprilGan: the benchmark beside models of its own, and tiled ensembles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from anomalib.models import Padim
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.base import Pipeline, pipeline
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from torchvision.transforms.v2.functional import normalize, resize

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.data.images import read_rgb
from conftest import BOLT, DATASET, GOLDEN_SIZE

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


TILES = ["0_0", "0_1", "1_0", "1_1"]


def ensemble_config(arguments: dict, root: Path, stage: str) -> dict:
    """Of an ensemble of four models, each of which sees a quarter of the images."""
    side = GOLDEN_SIZE
    data = {"root": str(root), "category": "bolt", "num_workers": 0, "eval_batch_size": 4}
    data |= {"test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
    model = {"class_path": "AprilGan", "init_args": arguments}
    return {
        "seed": 0,
        "accelerator": "cpu",
        "default_root_dir": "results",
        "tiling": {"tile_size": side, "stride": side, "image_size": 2 * side},
        "normalization_stage": stage,
        "thresholding_stage": stage,
        "data": {"class_path": "MVTecAD", "init_args": data},
        "SeamSmoothing": {"apply": False},
        "TrainModels": {"model": model, "trainer": {"logger": False, "enable_progress_bar": False}},
    }


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "stage"), [(0, "image"), (2, "image"), (2, "tile")])
def test_tiled_ensemble(run: RunPipeline, tiny_arguments: dict, tmp_path: Path, shots: int, stage: str) -> None:
    """One checkpoint and one table for each tile; the references are cut as the images are."""
    config = ensemble_config({**tiny_arguments, "k_shot": shots}, DATASET, stage)
    training = TrainTiledEnsemble()
    run(training, config)
    folder = training.root_dir
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert files == sorted(
        [*(f"model{tile}.ckpt" for tile in TILES), *(f"predictions{tile}.csv" for tile in TILES), "stats.json"]
    )
    run(EvalTiledEnsemble(folder), config)
    (values,) = pd.read_csv(folder / "metric_results.csv").to_dict("records")
    assert set(values) == metrics_of(AprilGan)
    assert all(0 < value < 1 for value in values.values())
    assert len(list(folder.glob("images/**/*.png"))) == 9
    for tile in TILES:
        assert len(pd.read_csv(folder / f"predictions{tile}.csv").image_path.unique()) == 9
        model = AprilGan.load_from_checkpoint(folder / "weights" / "lightning" / f"model{tile}.ckpt").model
        assert (model.class_name, len(model.references.paths)) == ("bolt", shots)
        if shots:
            torch.testing.assert_close(model.memory.banks, bank_of(model, *map(int, tile.split("_"))))


def bank_of(model: torch.nn.Module, row: int, column: int) -> list[torch.Tensor]:
    """What a model's memory banks should hold: the patch tokens of the references' tiles."""
    side = GOLDEN_SIZE
    images = [resize(read_rgb(path), [2 * side, 2 * side], antialias=True) for path in model.references.paths]
    part = torch.stack(images)[..., row * side :, column * side :][..., :side, :side]
    stages = model.encode(normalize(part, IMAGE_MEAN, IMAGE_STD)).stages
    return [torch.nn.functional.normalize(tokens.flatten(0, 1), dim=-1) for tokens in stages]
