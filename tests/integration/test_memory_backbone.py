# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A network of timm that fills memory banks and pools: scores, runs, checkpoints, exports, comparisons."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from anomalib.deploy import ExportType
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip import cost
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, ModelSpec
from anomalib_aprilgan.comparison.runs import run_job
from anomalib_aprilgan.comparison.sweep import run_portion
from anomalib_aprilgan.components.pool import mean_of_stages
from anomalib_aprilgan.maps import resize
from anomalib_aprilgan.pool import mutual_scores, scale
from conftest import BOLT, DATASET, Engines, Models, golden_data

SECOND = {"memory_backbone": "test_vit", "memory_pretrained": False, "memory_layers": [3, 6]}
FEW = {"k_shot": 2, "few_shot_source": str(BOLT / "train" / "good"), "class_name": "bolt"}
MEASURED = {"seconds_per_image", "peak_memory_mib", "finished", "sweep_seconds", "sweep_runs", "traceback"}


def predictions(engine: Engines, model: AprilGan, **options: object) -> tuple[Tensor, Tensor]:
    batches = engine().predict(model, data_path=BOLT / "test", **options)
    return tuple(torch.cat([getattr(each, name) for each in batches]) for name in ("pred_score", "anomaly_map"))


def equal(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_scores_equal_a_naive_loop(make_model: Models, golden_images: Tensor) -> None:
    model = make_model(**SECOND).model
    references, images = golden_images[:2], golden_images[9:12]
    text, plain = model.score_parts(model.encode(images), model.make_target("bolt"))
    target = model.make_target("bolt", references)
    same_text, found = model.score_parts(model.encode(images), target)
    clips = make_model().model
    assert torch.equal(plain, clips.score(clips.encode(images), clips.make_target("bolt"))[1])
    assert torch.equal(text, same_text)
    expected = torch.zeros(3, 16)
    for queries, rows in zip(model.memory_encoder(images), model.memory_encoder(references), strict=True):
        for image in range(3):
            for patch, query in enumerate(queries[image]):
                cosines = [query @ row / query.norm() / row.norm() for row in rows.flatten(0, 1)]
                expected[image, patch] += 1 - max(cosines)
    expected = resize(expected.unsqueeze(-1), 70)[:, 0]
    torch.testing.assert_close(found - plain, expected, atol=1e-5, rtol=1e-4)
    assert [model.map_upper_bound(each) for each in (target, model.make_target("bolt"))] == [4 + 2 * 2, 4]
    scores, _ = model.score(model.encode(images), target)
    torch.testing.assert_close(scores, (text + found.amax(dim=(1, 2)) / 8) / 2)


def test_a_checkpoint_holds_banks_and_no_frozen_weights(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    model, run = make_model(**SECOND, **FEW), engine()
    run.validate(model, datamodule=golden_data())
    run.trainer.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith(("model.memory_encoder", "model.encoder"))]
    assert [tuple(state[f"model.memory.stage{stage}"].shape) for stage in (0, 1)] == [(2 * 16, 64)] * 2
    expected = predictions(engine, model)
    loaded = AprilGan.load_from_checkpoint(tmp_path / "model.ckpt")
    equal(predictions(engine, loaded), expected)
    equal(predictions(engine, make_model(**SECOND, **FEW), ckpt_path=tmp_path / "model.ckpt"), expected)
    (tested,) = engine().test(model, datamodule=golden_data())
    (again,) = engine().test(loaded, datamodule=golden_data())
    assert tested == again
    for other in ({}, {**SECOND, "memory_layers": [2, 6]}, {**SECOND, "memory_backbone": "test_vit2"}):
        with pytest.raises(ValueError, match=r"memory_encoder: .*memory_backbone"):
            predictions(engine, make_model(**other, **FEW), ckpt_path=tmp_path / "model.ckpt")


def test_a_pool_compares_its_tokens(make_model: Models, engine: Engines) -> None:
    options = {"post_processor": False, "class_name": "bolt"}
    model = make_model(**SECOND, **options, pool=True)
    _, found = predictions(engine, model)
    _, plain = predictions(engine, make_model(**options))
    pool = model.current_pool
    assert [tuple(each.shape) for each in pool.stages] == [(9, 16, 64)] * 2
    patches = mean_of_stages([mutual_scores([each]) for each in pool.stages])
    order = pool.numbers([str(path) for path in sorted((BOLT / "test").rglob("*.png"))])
    maps = scale(resize(patches.unsqueeze(-1), 70)[:, 0], patches)[order]
    torch.testing.assert_close(found, plain + 4 * maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_sweep_equals_single_runs(tiny_arguments: dict, precision: str) -> None:
    spec = ModelSpec("anomalib_aprilgan.AprilGan", {**tiny_arguments, **SECOND})
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
    trainer = {"accelerator": "cpu", "precision": precision}
    grid = Grid({"model": spec}, {"goldens": data}, [0, 2], [0, 1], 64, 0, trainer)
    outcomes, rest, _ = run_portion(grid, grid.jobs({"goldens": ["bolt"]}, {"model": [0, 2]}))
    assert not rest
    for job, row, _ in outcomes:
        _, alone, _ = run_job(grid, job)
        assert row["status"] == "ok"
        assert {k: v for k, v in row.items() if k not in MEASURED} == {
            k: v for k, v in alone.items() if k not in MEASURED
        }


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra 'onnx'"
)
@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_exports_give_its_scores(make_model: Models, engine: Engines, tmp_path: Path, backbone: str) -> None:
    import onnxruntime

    second = {"memory_backbone": backbone, "memory_pretrained": False}
    model = make_model(**FEW, **second, adapters=None, post_processor=False)
    file = engine().export(model, ExportType.ONNX, tmp_path, input_size=(80, 90))
    images = torch.rand(3, 3, 80, 90, generator=torch.manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(images)
    scores, maps = onnxruntime.InferenceSession(file).run(None, {"input": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), expected.pred_score, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(maps), expected.anomaly_map, atol=1e-4, rtol=0)


def test_its_cost_is_known(
    make_model: Models, golden_images: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(**SECOND).model
    both = cost.tower_cost(model.encoder) + cost.tower_cost(model.memory_encoder)
    assert cost.tower_cost(model.memory_encoder) > 0
    monkeypatch.setattr(cost, "LIMIT", 1e-9)
    model.make_target("bolt", golden_images[:2])
    passes = cost.search_cost([(16, 32, 64)] * 2) / both
    assert f"32 + 32 rows costs {passes:.0f} passes" in caplog.text
    assert "later `memory_layers` than [3, 6]" in caplog.text
