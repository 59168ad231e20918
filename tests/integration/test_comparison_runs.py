# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Single runs of a comparison, on the goldens' data set."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.comparison import classes, datasets, models
from anomalib_aprilgan.comparison.device import choose_device
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.ground_truth import read_ground_truth
from anomalib_aprilgan.comparison.sweep import run_portion
from anomalib_aprilgan.data import references
from conftest import BOLT, DATASET, TINY_CLIP

MVTEC = DataSpec("anomalib.data.MVTecAD", {"root": str(DATASET), "num_workers": 0, "eval_batch_size": 4}, ["bolt"])
SMALL = {"backbone": "resnet10t", "pre_trained": False}
SPADE = ModelSpec("anomalib_aprilgan.comparison.spade.Spade", {**SMALL, "image_size": 64})
WINCLIP = ModelSpec("anomalib.models.WinClip", {"scales": [2]})


def grid(spec: ModelSpec, **kwargs: object) -> Grid:
    defaults = {"shots": [0, 1, 2], "seeds": [0], "mask_size": 70, "thumbnails": 0, "trainer": {"accelerator": "cpu"}}
    return Grid(models={"model": spec}, datasets={"goldens": MVTEC}, **{**defaults, **kwargs})


def run(spec: ModelSpec, shots: int, category: str = "bolt", seed: int = 0, **kwargs: object) -> dict:
    return run_alone(grid(spec, **kwargs), Job("model", "goldens", category, shots, seed))[0]


def run_alone(settings: Grid, job: Job) -> tuple[dict, dict | None]:
    ((_, row, thumbnails),), rest, _ = run_portion(settings, [job])
    assert rest == []
    return row, thumbnails


@pytest.fixture
def april_gan_spec(tiny_arguments: dict) -> ModelSpec:
    return ModelSpec("anomalib_aprilgan.AprilGan", tiny_arguments)


@pytest.fixture
def golden_draw(monkeypatch: pytest.MonkeyPatch, golden: dict) -> None:
    """Draws the goldens' references, which the authors drew with replacement."""

    def draw(candidates: list[str], shots: int, *_options: object) -> list[str]:
        category = Path(candidates[0]).relative_to(DATASET).parts[0]
        return [str(DATASET / path) for path in golden[f"few{shots}/references"] if path.startswith(category)]

    monkeypatch.setattr(references, "draw_references", draw)


@pytest.mark.usefixtures("golden_draw")
@pytest.mark.parametrize("shots", [0, 1, 2])
@pytest.mark.parametrize("category", ["bolt", "fabric"])
def test_april_gan_has_the_authors_numbers(golden: dict, april_gan_spec: ModelSpec, shots: int, category: str) -> None:
    row = run(april_gan_spec, shots, category)
    assert row["status"] == "ok", row["error"]
    index = list(golden["metrics/categories"]).index(category)
    prefix = f"{f'few{shots}' if shots else 'zero'}/metrics"
    for ours, theirs in (("AUROC", "auroc"), ("F1Max", "f1"), ("AP", "ap")):
        for level, suffix in (("image", "sp"), ("pixel", "px")):
            expected = golden[f"{prefix}/{theirs}_{suffix}"][index]
            assert row[f"{level}_{ours}"] == pytest.approx(expected, abs=1e-3)
    assert row["pixel_PRO_authors"] == pytest.approx(golden[f"{prefix}/aupro"][index], abs=0.005)
    assert len(row["references"]) == shots
    assert len(row["adapters_sha256"]) == 64
    assert (row["n_images"], row["n_abnormal"]) == (9, 5)
    assert row["seconds_per_image"] > 0
    assert row["peak_memory_mib"] > 0


def test_masks_are_the_authors(golden: dict) -> None:
    datamodule = datasets.build_datamodule(MVTEC, "fabric")  # 112 x 80 pixels
    datamodule.setup(TrainerFn.FITTING)
    chosen = golden["categories"] == "fabric"
    paths = [str(DATASET / path) for path in golden["image_paths"][chosen]]
    truth = read_ground_truth(datamodule, paths, 70)
    np.testing.assert_array_equal(truth.masks, golden["masks"][chosen].astype(bool))
    np.testing.assert_array_equal(truth.labels, golden["labels"][chosen].astype(bool))


def test_a_cached_model_forgets_its_references(april_gan_spec: ModelSpec) -> None:
    models._build_once.cache_clear()
    first, few, again = (run(april_gan_spec, shots) for shots in (0, 2, 0))
    assert models._build_once.cache_info().misses == 1
    same = [name for name in first if name.startswith(("image_", "pixel_"))]
    assert [first[name] for name in same] == [again[name] for name in same]
    assert first["pixel_AP"] != few["pixel_AP"]


def test_references_of_the_arguments_do_not_count(tiny_arguments: dict) -> None:
    plain, own = ({**tiny_arguments, **few} for few in ({}, {"k_shot": 3, "few_shot_source": str(BOLT / "test")}))
    one, other = (run(ModelSpec("anomalib_aprilgan.AprilGan", arguments), 2) for arguments in (plain, own))
    assert (one["references"], one["pixel_AP"]) == (other["references"], other["pixel_AP"])


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("anomalib.models.Patchcore", {**SMALL, "layers": ["layer1"]}),
        ("anomalib.models.Padim", {**SMALL, "layers": ["layer1", "layer2"], "n_features": 8}),
        ("anomalib.models.AnomalyDINO", {"encoder_name": "tiny_dino_base"}),
        (SPADE.class_path, SPADE.init_args),
    ],
)
def test_trained_models(monkeypatch: pytest.MonkeyPatch, class_path: str, init_args: dict) -> None:
    make = timm.create_model

    def make_tiny(name: str, **kwargs: object) -> object:
        """AnomalyDINO always asks for weights; its transformer is replaced by a small random one."""
        if name == "tiny_dino_base":
            size = {"embed_dim": 24, "depth": 12, "num_heads": 2, "patch_size": 14, "img_size": 252}
            return make("vit_tiny_patch16_224", **{**kwargs, **size, "pretrained": False})
        return make(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", make_tiny)
    seen: list[str] = []
    train_step = classes.find_class(class_path, object, "").training_step

    def step(self: object, batch: object, *args: object, **kwargs: object) -> object:
        seen.extend(batch.image_path)
        return train_step(self, batch, *args, **kwargs)

    monkeypatch.setattr(classes.find_class(class_path, object, ""), "training_step", step)
    spec = ModelSpec(class_path, init_args)
    assert models.possible_shots(spec, [0, 1, 2], "model") == [1, 2]
    row = run(spec, 2)
    assert row["status"] == "ok", row["error"]
    assert 0 <= row["pixel_PRO"] <= 1
    assert row["adapters_sha256"] is None
    root = DATASET.resolve()
    assert sorted(Path(path).resolve().relative_to(root).as_posix() for path in seen) == sorted(row["references"])


def test_all_models_see_the_same_references(april_gan_spec: ModelSpec) -> None:
    april_gan, spade = run(april_gan_spec, 2, seed=3), run(SPADE, 2, seed=3)
    other_seed = run(april_gan_spec, 2, seed=4)
    assert april_gan["references"] == spade["references"]
    assert april_gan["references"] != other_seed["references"]
    assert all(path.startswith("bolt/train/good/") for path in april_gan["references"])


def test_winclip_with_random_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib.metadata import version

    from anomalib.models.image.winclip import torch_model

    if tuple(map(int, version("open_clip_torch").split(".")[:2])) > (2, 26):
        pytest.skip("anomalib's WinClip is broken with this open_clip, and refused: see the next test")
    vision = {"image_size": 240, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TINY_CLIP["text_cfg"]}
    (tmp_path / "tiny-winclip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    monkeypatch.setattr(torch_model, "BACKBONE", "tiny-winclip")
    monkeypatch.setattr(torch_model, "PRETRAINED", None)
    models._build_once.cache_clear()
    zero, one, again = (run(WINCLIP, shots) for shots in (0, 1, 0))
    models._build_once.cache_clear()
    assert [row["error"] for row in (zero, one, again)] == [None] * 3
    assert len(one["references"]) == 1
    assert zero["pixel_AP"] == again["pixel_AP"] != one["pixel_AP"]


@pytest.mark.parametrize("version", ["2.26.1", "2.32.0", "3.3.0"])
def test_winclip_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(models.metadata, "version", lambda _: version)
    row = run(WINCLIP, 0)
    assert row["status"] == "failed"
    assert f"WinClip is refused with open_clip {version}" in row["error"]
    assert "window embeddings" in row["error"]


def test_winclip_is_not_refused() -> None:
    models.check_winclip("2.24.0")
    models.check_winclip("2.26.0")


@pytest.mark.parametrize(
    ("spec", "shots", "message"),
    [
        (SPADE, 10, "`k_shot` 10 is larger than the number of normal reference images, 4"),
        (ModelSpec("anomalib.models.Padim", {"backbones": "resnet18"}), 2, "Padim can't be made with the `init_args`"),
    ],
)
def test_failed_run(spec: ModelSpec, shots: int, message: str) -> None:
    row = run(spec, shots)
    assert row["status"] == "failed"
    assert message in row["error"]
    assert "Traceback" in row["traceback"]


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("MainProcess", 2, 0), ("LokyProcess-1", 2, 1), ("LokyProcess-4", 3, 1), ("LokyProcess-2", 1, 0)],
)
def test_workers_share_the_gpus(monkeypatch: pytest.MonkeyPatch, name: str, count: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(multiprocessing.current_process(), "name", name)
    assert str(choose_device("auto")) == f"cuda:{expected}"
    assert str(choose_device("cpu")) == "cpu"


def test_thumbnails(april_gan_spec: ModelSpec) -> None:
    job = Job("model", "goldens", "bolt", 0, 0)
    row, thumbnails = run_alone(grid(april_gan_spec, thumbnails=3), job)
    assert row["status"] == "ok"
    assert thumbnails["images"].shape == (3, 256, 256, 3)
    assert thumbnails["maps"].shape == (3, 70, 70)
    assert [mask.any() for mask in thumbnails["masks"]] == [False, True, True]
    assert thumbnails["range"][0] <= thumbnails["maps"].min()
    _, none = run_alone(grid(april_gan_spec, thumbnails=3, seeds=[1, 0]), job)
    assert none is None  # of the first seed only


def test_data_set_without_masks(april_gan_spec: ModelSpec) -> None:
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
    root = str(DATASET / "bolt")
    data = DataSpec("anomalib.data.Folder", {"name": "parts", "root": root, "num_workers": 0, **folders})
    assert list(datasets.prepare_categories(data, "parts")) == ["parts"]
    whole = Grid({"model": april_gan_spec}, {"parts": data}, [0], [0], 70, 2, {"accelerator": "cpu"})
    row, _ = run_alone(whole, Job("model", "parts", "parts", 0, 0))
    assert row["error"] is None
    assert row["image_AUROC"] is not None
    assert row["pixel_AUROC"] is None


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("anomalib.models.Padimm", r"`models.model` has the unknown class_path 'anomalib.models.Padimm'"),
        ("anomalib.data.MVTecAD", "not a AnomalibModule of anomalib"),
    ],
)
def test_wrong_class_path(class_path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.possible_shots(ModelSpec(class_path), [1], "model")


@pytest.mark.parametrize(
    ("root", "categories", "message"),
    [
        ("nowhere", None, "nowhere' of the data set 'parts' does not exist"),
        ("empty", None, r"The categories \['bottle'\] of the data set 'parts' are not in"),
        (DATASET, ["bolt", "nut"], r"The categories \['nut'\] of the data set 'parts' are not in"),
        (DATASET, [], "`datasets.parts.categories` is empty"),
    ],
)
def test_wrong_data_set(tmp_path: Path, root: str | Path, categories: list | None, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError if root == "nowhere" else ValueError, match=message):
        datasets.prepare_categories(DataSpec(MVTEC.class_path, {"root": str(tmp_path / root)}, categories), "parts")


def test_all_categories_on_disk() -> None:
    spec = DataSpec(MVTEC.class_path, {"root": str(DATASET)})
    assert list(datasets.prepare_categories(spec, "goldens")) == ["bolt", "fabric"]
