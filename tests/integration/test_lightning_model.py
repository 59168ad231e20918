# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""AprilGan's rules: learning type, class name, references, checkpoints, mistakes."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import get_model
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.data import released_adapters as weights
from conftest import GOLDEN, GOLDEN_SIZE

BOLT = GOLDEN / "dataset" / "bolt"


@pytest.fixture
def make(tiny_arguments: dict) -> Callable[..., AprilGan]:
    """AprilGan with the tiny CLIP."""
    return lambda **kwargs: AprilGan(**{**tiny_arguments, "visualizer": False, **kwargs})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    return Engine(default_root_dir=tmp_path, **options)


def data(category: str = "bolt") -> MVTecAD:
    return MVTecAD(GOLDEN / "dataset", category, train_batch_size=4, eval_batch_size=4, num_workers=0)


def outputs(model: AprilGan) -> tuple[Tensor, Tensor]:
    """Score and map of a fixed image through pre-processor, model and post-processor."""
    image = torch.rand(2, 3, GOLDEN_SIZE, GOLDEN_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batch = model.eval()(image)
    return batch.pred_score, batch.anomaly_map


# --- learning type and optimizer ---


def test_learning_type(make: Callable[..., AprilGan]) -> None:
    assert make().learning_type == LearningType.ZERO_SHOT
    assert make(k_shot=2).learning_type == LearningType.FEW_SHOT
    assert make(adapters=None, k_shot=2).learning_type == LearningType.ONE_CLASS


def test_only_adapters_are_optimised(make: Callable[..., AprilGan]) -> None:
    assert make().configure_optimizers() is None
    model = make(adapters=None, learning_rate=0.5)
    (group,) = model.configure_optimizers().param_groups
    assert (group["lr"], group["betas"]) == (0.5, (0.5, 0.999))
    assert {id(parameter) for parameter in group["params"]} == {id(p) for p in model.parameters() if p.requires_grad}


# --- class name and references ---


def test_class_name_is_the_argument_then_the_category_then_object(
    make: Callable[..., AprilGan], engine: Engine
) -> None:
    named, from_data, bare = make(class_name="fabric"), make(), make()
    engine.predict(bare, data_path=BOLT / "test" / "good" / "000.png")
    assert bare.model.class_name == "object"
    engine.validate(named, datamodule=data())
    assert named.model.class_name == "fabric"
    engine.validate(from_data, datamodule=data())
    assert from_data.model.class_name == "bolt"


def test_another_category_replaces_text_features_and_references(
    make: Callable[..., AprilGan], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(k_shot=1)
    engine.test(model, datamodule=data("bolt"))
    first = model.model.text_features.clone()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        engine.test(model, datamodule=data("fabric"))
    assert "Target changed" in caplog.text
    assert not torch.equal(first, model.model.text_features)
    assert all("fabric" in path for path in model.reference_paths)


def test_no_class_name_is_left_over_from_an_earlier_run(make: Callable[..., AprilGan], engine: Engine) -> None:
    model = make(k_shot=1)
    engine.test(model, datamodule=data("bolt"))
    references = model.reference_paths
    engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    assert model.model.class_name == "object"
    assert model.reference_paths == references  # nothing else is named


def test_a_second_data_module_brings_its_own_references(
    make: Callable[..., AprilGan], engine: Engine, tmp_path: Path
) -> None:
    """Of the same names and category, with other content: image AUROC was 0.5 with the references of the first."""
    shutil.copytree(GOLDEN / "dataset" / "fabric", tmp_path / "data" / "bolt")
    other = MVTecAD(tmp_path / "data", "bolt", eval_batch_size=4, num_workers=0)
    reused, fresh = make(k_shot=2), make(k_shot=2)
    engine.test(reused, datamodule=data("bolt"))
    assert engine.test(reused, datamodule=other) == engine.test(fresh, datamodule=other)
    assert all(path.startswith(str(tmp_path)) for path in reused.reference_paths)


def test_changed_files_of_a_folder_change_the_target(
    make: Callable[..., AprilGan], engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = tmp_path / "good"
    shutil.copytree(BOLT / "train" / "good", good)
    model = make(class_name="bolt", k_shot=2, few_shot_source=good)
    model.prepare()
    banks, threshold = model.model.memory.banks, model.post_processor.image_threshold.clone()
    model.prepare()
    assert all(torch.equal(*pair) for pair in zip(banks, model.model.memory.banks, strict=True))
    shutil.copytree(GOLDEN / "dataset" / "fabric" / "train" / "good", good, dirs_exist_ok=True)
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        model.prepare()
    assert "Target changed" in caplog.text
    assert not torch.equal(banks[0], model.model.memory.banks[0])
    assert threshold != model.post_processor.image_threshold


def test_references_depend_on_the_seed_alone(make: Callable[..., AprilGan], engine: Engine) -> None:
    drawn = []
    for seed in (0, 0, 1, 2, 3, 4):
        model = make(k_shot=2, seed=seed)
        engine.validate(model, datamodule=data())
        drawn.append(tuple(model.reference_paths))
        assert len(set(model.reference_paths)) == 2
        assert all("train/good" in path for path in model.reference_paths)
        assert len(model.model.memory.banks[0]) == 2 * 25
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("source", [BOLT / "train", str(BOLT / "train" / "good")])
def test_references_from_a_folder(make: Callable[..., AprilGan], engine: Engine, source: object) -> None:
    model = make(k_shot=2, few_shot_source=source)
    engine.predict(model, data_path=BOLT / "test")
    assert all(path.startswith(str(BOLT / "train")) for path in model.reference_paths)


def test_references_from_a_list_are_exactly_these(make: Callable[..., AprilGan], engine: Engine) -> None:
    paths = [str(BOLT / "train" / "good" / name) for name in ("001.png", "000.png", "001.png")]
    model = make(k_shot=3, few_shot_source=paths)
    engine.predict(model, data_path=BOLT / "test" / "good")
    assert model.reference_paths == paths


def test_more_draws_than_images_with_replacement(make: Callable[..., AprilGan], engine: Engine) -> None:
    model = make(k_shot=50, with_replacement=True)
    engine.validate(model, datamodule=data())
    assert len(model.reference_paths) == 50


def test_a_setup_by_hand_is_kept(make: Callable[..., AprilGan], engine: Engine) -> None:
    model = make(class_name="bolt")
    model.model.setup("bolt", torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE))
    engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    assert not model.model.memory.is_empty


def test_the_torch_model_needs_no_trainer_and_may_be_set_up_again(make: Callable[..., AprilGan]) -> None:
    model, images = make().model, torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE)
    with pytest.raises(RuntimeError, match=r"call setup\(class_name\) first"):
        model(images)
    model.setup("bolt", images)
    few = model(images)
    torch.testing.assert_close(few.pred_score.shape, (2,))
    model.setup("fabric")
    assert model.memory.is_empty
    assert model(images).anomaly_map.shape == (2, GOLDEN_SIZE, GOLDEN_SIZE)
    model.setup("bolt", images)
    torch.testing.assert_close(model(images).anomaly_map, few.anomaly_map)


def test_setup_in_inference_mode_leaves_loadable_buffers(make: Callable[..., AprilGan]) -> None:
    model = make().model
    with torch.inference_mode():
        model.setup("bolt", torch.randn(1, 3, GOLDEN_SIZE, GOLDEN_SIZE))
    assert not any(buffer.is_inference() for buffer in model.buffers())


# --- precision and batches ---


@pytest.mark.parametrize("shots", [0, 2])
def test_a_batch_equals_one_by_one(make: Callable[..., AprilGan], shots: int) -> None:
    model, images = make().model, torch.randn(3, 3, GOLDEN_SIZE, GOLDEN_SIZE)
    model.setup("bolt", images[:shots] + 0.1 if shots else None)
    together = model(images)
    alone = [model(image.unsqueeze(0)) for image in images]
    torch.testing.assert_close(together.pred_score, torch.cat([each.pred_score for each in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.anomaly_map, torch.cat([each.anomaly_map for each in alone]), atol=1e-4, rtol=0)


def test_mixed_precision_keeps_scores_in_float32(make: Callable[..., AprilGan]) -> None:
    model, images = make().model, torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE)
    model.setup("bolt", images + 0.1)
    full = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    assert mixed.anomaly_map.dtype == mixed.pred_score.dtype == torch.float32
    assert (mixed.anomaly_map - full.anomaly_map).abs().mean() < 0.1


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_engine_with_mixed_precision(make: Callable[..., AprilGan], tmp_path: Path, precision: str) -> None:
    engine = Engine(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False, precision=precision
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fp16 is not supported on CPU")  # Lightning then uses bfloat16
        (metrics,) = engine.test(make(k_shot=1), datamodule=data())
    assert all(0 <= value <= 1 for value in metrics.values())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize("run", ["fit", "test"])
def test_precisions_that_turn_all_weights(
    make: Callable[..., AprilGan], tmp_path: Path, precision: str, run: str
) -> None:
    """They are refused before data are set up: weights and images would be of two types."""
    datamodule = data()
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    engine = Engine(default_root_dir=tmp_path, precision=precision, **options)
    model = make(adapters=None if run == "fit" else str(GOLDEN / "adapters.pth"))
    with pytest.raises(ValueError, match=rf"`precision` '{precision}' turns weights .*Choose 'bf16-mixed'"):
        getattr(engine, run)(model, datamodule=datamodule)
    assert not hasattr(datamodule, "test_data")


# --- checkpoints ---


def checkpointed(make: Callable[..., AprilGan], engine: Engine, **kwargs: object) -> tuple[AprilGan, Path]:
    model = make(**kwargs)
    engine.validate(model, datamodule=data())
    path = Path(engine.trainer.default_root_dir) / "model.ckpt"
    engine.trainer.save_checkpoint(path)
    return model, path


@pytest.mark.parametrize("shots", [0, 2])
def test_load_from_checkpoint(make: Callable[..., AprilGan], engine: Engine, shots: int) -> None:
    model, path = checkpointed(make, engine, k_shot=shots)
    loaded = AprilGan.load_from_checkpoint(path)
    assert loaded.reference_paths == model.reference_paths
    for actual, expected in zip(outputs(loaded), outputs(model), strict=True):
        assert torch.equal(actual, expected)


def test_a_checkpoint_holds_no_clip_and_needs_no_adapter_file(
    tiny_arguments: dict, make: Callable[..., AprilGan], engine: Engine, tmp_path: Path
) -> None:
    copy = tmp_path / "adapters.pth"
    copy.write_bytes((GOLDEN / "adapters.pth").read_bytes())
    model, path = checkpointed(make, engine, k_shot=1, adapters=str(copy), few_shot_source=str(BOLT / "train"))
    copy.unlink()
    stored = torch.load(path, weights_only=True)
    assert not [name for name in stored["state_dict"] if "encoder" in name]
    assert path.stat().st_size < 200_000
    for actual, expected in zip(outputs(AprilGan.load_from_checkpoint(path)), outputs(model), strict=True):
        assert torch.equal(actual, expected)


def test_prompts_travel_in_the_checkpoint(make: Callable[..., AprilGan], engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("{normal_states: ['{}'], abnormal_states: ['bad {}'], templates: ['a {}']}")
    model, path = checkpointed(make, engine, prompts=str(file))
    file.unlink()
    loaded = AprilGan.load_from_checkpoint(path)
    assert loaded.model.prompts == model.model.prompts
    with pytest.raises(ValueError, match=r"another model than the one that loads it: prompts"):
        AprilGan.load_from_checkpoint(path, prompts=None)


@pytest.mark.parametrize("shots", [0, 2])
def test_engine_test_with_a_checkpoint_equals_without(
    make: Callable[..., AprilGan], engine: Engine, shots: int
) -> None:
    model, path = checkpointed(make, engine, k_shot=shots)
    (fresh,) = engine.test(model, datamodule=data())
    (loaded,) = engine.test(make(k_shot=shots), datamodule=data(), ckpt_path=path)
    assert loaded == fresh


def test_a_checkpoint_brings_references_to_prediction(make: Callable[..., AprilGan], engine: Engine) -> None:
    model, path = checkpointed(make, engine, k_shot=2)
    loaded = make(k_shot=2)
    predictions = engine.predict(loaded, data_path=BOLT / "test" / "good", ckpt_path=path)
    assert loaded.reference_paths == model.reference_paths
    assert loaded.model.class_name == "bolt"
    assert len(predictions) == 4


@pytest.mark.parametrize("run", ["predict", "test"])
def test_a_checkpoint_made_with_a_folder_is_used_without_it(
    make: Callable[..., AprilGan], engine: Engine, caplog: pytest.LogCaptureFixture, run: str
) -> None:
    model, path = checkpointed(make, engine, k_shot=2, few_shot_source=str(BOLT / "train" / "good"))
    loaded = make(k_shot=2)
    where = {"data_path": BOLT / "test" / "good"} if run == "predict" else {"datamodule": data()}
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        getattr(engine, run)(loaded, ckpt_path=path, **where)
    assert "Target changed" not in caplog.text
    assert loaded.reference_paths == model.reference_paths
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold


def test_a_zero_shot_checkpoint_serves_few_shot_with_new_references(
    make: Callable[..., AprilGan], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = checkpointed(make, engine)
    model = make(k_shot=2)
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        engine.test(model, datamodule=data(), ckpt_path=path)
    assert "thresholds need a new validation" in caplog.text
    assert len(model.model.memory.banks[0]) == 50
    assert model.model.score_bounds.isnan().all()


def test_small_memory_banks_are_kept_in_checkpoints(make: Callable[..., AprilGan], engine: Engine) -> None:
    small = {"coreset_sampling_ratio": 0.5, "half_precision_memory": True}
    model, path = checkpointed(make, engine, k_shot=4, **small)
    assert [(bank.shape[0], bank.dtype) for bank in model.model.memory.banks] == [(4 * 12, torch.bfloat16)] * 4
    loaded = AprilGan.load_from_checkpoint(path)
    for one, other in zip(model.model.memory.banks, loaded.model.memory.banks, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    assert all(torch.equal(*pair) for pair in zip(outputs(model), outputs(loaded), strict=True))
    again = make(k_shot=4)
    engine.test(again, datamodule=data(), ckpt_path=path)
    assert len(again.model.memory.stage0) == 4 * 25  # other references than the checkpoint's: all tokens


def test_a_coreset_ratio_out_of_range_is_refused(make: Callable[..., AprilGan]) -> None:
    for ratio in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"`coreset_sampling_ratio` .* 0 < ratio <= 1; got"):
            make(coreset_sampling_ratio=ratio)


def test_named_adapters_are_not_fetched_for_a_checkpoint(
    make: Callable[..., AprilGan], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = checkpointed(make, engine)
    monkeypatch.setattr("anomalib_aprilgan.components.target.fetch_adapters", lambda _name: pytest.fail("fetched"))
    engine.test(make(adapters="auto"), datamodule=data(), ckpt_path=path)
    engine.test(AprilGan.load_from_checkpoint(path, visualizer=False), datamodule=data())


# --- named adapters ---


@pytest.mark.parametrize(("adapters", "fetched"), [("auto", "visa"), ("mvtecad", "mvtecad"), ("visa", "visa")])
def test_named_adapters_are_fetched_when_they_are_needed(
    make: Callable[..., AprilGan], engine: Engine, monkeypatch: pytest.MonkeyPatch, adapters: str, fetched: str
) -> None:
    monkeypatch.setattr(weights, "RELEASED_WIDTHS", (64, 32))
    asked = []
    monkeypatch.setattr(
        "anomalib_aprilgan.components.target.fetch_adapters", lambda name: asked.append(name) or GOLDEN / "adapters.pth"
    )
    model = make(adapters=adapters)
    assert asked == []
    engine.test(model, datamodule=data())
    assert asked == [fetched]
    assert set(weights.RELEASED_ADAPTERS) == {"mvtecad", "visa"}


def test_auto_never_tests_on_what_its_adapters_were_trained_on(
    make: Callable[..., AprilGan], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "RELEASED_WIDTHS", (64, 32))
    asked = []
    monkeypatch.setattr(
        "anomalib_aprilgan.components.target.fetch_adapters", lambda name: asked.append(name) or GOLDEN / "adapters.pth"
    )
    model = make(adapters="auto", class_name="bolt")
    engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    assert asked == ["mvtecad"]
    engine.test(model, datamodule=data())
    engine.test(model, datamodule=data())
    assert asked == ["mvtecad", "visa"]


def test_a_backbone_without_released_adapters_is_told_so_before_any_download(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class ReachedError(Exception):
        pass

    def reach(*_args: object) -> None:
        raise ReachedError

    monkeypatch.setattr("anomalib_aprilgan.lightning_model.ClipEncoder", reach)
    with pytest.raises(
        ValueError, match=r"The released adapters \('visa'\) are for four layers of ViT-L-14-336, not for"
    ):
        AprilGan("ViT-B-16", adapters="visa")
    with pytest.raises(ReachedError):
        AprilGan("ViT-B-16")
    assert "The released adapters ('auto') are for four layers of ViT-L-14-336, not for 'ViT-B-16'" in caplog.text
    caplog.clear()
    with pytest.raises(ReachedError):
        AprilGan()
    assert not caplog.records


def test_auto_without_released_adapters_does_not_ask_the_network(
    make: Callable[..., AprilGan], engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anomalib_aprilgan.components.target.fetch_adapters", lambda _name: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=r"released adapters \('visa'\) .* or None to train new ones"):
        engine.test(make(adapters="auto"), datamodule=data())
    _, path = checkpointed(make, engine)
    caplog.clear()
    assert AprilGan.load_from_checkpoint(path, visualizer=False).loaded_adapters is not None
    assert "released adapters" not in caplog.text


@pytest.mark.parametrize("mixed", [False, True])
def test_training_makes_no_graph_of_the_encoder(make: Callable[..., AprilGan], mixed: bool) -> None:
    """It runs without gradients, in the trainer's precision; the backward pass ends at the adapters."""
    model = make(adapters=None).model
    images, masks = torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE), torch.zeros(2, GOLDEN_SIZE, GOLDEN_SIZE)
    saved: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        encoded = model.encode(images)
        with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
            focal, dice = model.stage_losses(images, masks, model.encode_class_name("bolt").expand(2, -1, -1))
    (focal + dice).sum().backward()
    for tokens in (encoded.embedding, *encoded.stages):
        assert tokens.dtype == (torch.bfloat16 if mixed else torch.float32)
        assert not tokens.requires_grad
    frozen = {each.untyped_storage().data_ptr() for each in model.encoder.parameters()}
    assert not any(each.untyped_storage().data_ptr() in frozen for each in saved)
    assert all(each.grad is None for each in model.encoder.parameters())
    assert all(each.grad.abs().sum() > 0 for each in model.adapters.parameters())


@pytest.mark.parametrize("adapters", [None, str(GOLDEN / "adapters.pth")])
def test_outputs_carry_no_gradients(make: Callable[..., AprilGan], adapters: str | None) -> None:
    model = make(adapters=adapters).model
    model.setup("bolt")
    prediction = model(torch.zeros(1, 3, GOLDEN_SIZE, GOLDEN_SIZE))
    assert not prediction.pred_score.requires_grad
    assert not prediction.anomaly_map.requires_grad
    assert any(each.requires_grad for each in model.parameters()) == (adapters is None)


def test_get_model_with_lists_and_dictionaries(tiny_arguments: dict, engine: Engine, tmp_path: Path) -> None:
    prompts = {"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": ["a {}."]}
    source = [str(BOLT / "train" / "good" / name) for name in ("000.png", "001.png")]
    arguments = {**tiny_arguments, "prompts": prompts, "k_shot": 2, "few_shot_source": source}
    model = get_model({"class_path": "AprilGan", "init_args": arguments})
    engine.predict(model, data_path=BOLT / "test" / "good" / "000.png")
    assert model.reference_paths == source
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]["few_shot_source"] == source


# --- mistakes ---


@pytest.mark.parametrize("shape", [(1, 3, 84, 84), (3, GOLDEN_SIZE, GOLDEN_SIZE), (1, 1, GOLDEN_SIZE, GOLDEN_SIZE)])
def test_images_of_another_size(make: Callable[..., AprilGan], shape: tuple) -> None:
    model = make().model
    model.setup("bolt")
    with pytest.raises(ValueError, match=r"Expected preprocessed images \(B, 3, 70, 70\), got .*pre-processor"):
        model(torch.zeros(shape))


def test_a_source_without_k_shot_is_said(make: Callable[..., AprilGan], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        make(few_shot_source=BOLT / "train")
    assert "`few_shot_source` is not used while `k_shot` is 0: set `k_shot`" in caplog.text


def test_k_shot_larger_than_the_number_of_images(make: Callable[..., AprilGan], engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"`k_shot` 99 is larger than the number of normal reference images"):
        engine.validate(make(k_shot=99), datamodule=data())


def test_negative_k_shot(make: Callable[..., AprilGan]) -> None:
    with pytest.raises(ValueError, match=r"`k_shot` must be 0"):
        make(k_shot=-1)


def test_a_list_of_another_length_than_k_shot(make: Callable[..., AprilGan], engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"lists 1 images, but `k_shot` is 2"):
        engine.predict(make(k_shot=2, few_shot_source=["a.png"]), data_path=BOLT / "test" / "good")


def test_prediction_without_references(make: Callable[..., AprilGan], engine: Engine) -> None:
    with pytest.raises(ValueError, match="there are no reference images: give `few_shot_source`"):
        engine.predict(make(k_shot=1), data_path=BOLT / "test" / "good")


def test_sources_that_hold_no_images(make: Callable[..., AprilGan], engine: Engine, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "image.png").write_bytes(b"no image")
    for source, message in (
        (tmp_path / "none", "does not exist"),
        (empty, "holds no images"),
        (broken, r"image\.png' can't be read"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.predict(make(k_shot=1, few_shot_source=source), data_path=BOLT / "test" / "good")


def test_training_on_normal_images(make: Callable[..., AprilGan], engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"normal images without masks\. Wrap a labelled data module"):
        engine.fit(make(adapters=None), datamodule=data())


def test_untrained_adapters_are_called_so(
    make: Callable[..., AprilGan], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        engine.test(make(adapters=None), datamodule=data())
    assert "adapters are untrained" in caplog.text


@pytest.mark.slow
def test_checkpoint_of_vit_l_is_small(engine: Engine, tmp_path: Path) -> None:
    """What is saved of the real architecture, at a small image size and without its weights, is its adapters."""
    prompts = {"normal_states": ["{}"], "abnormal_states": ["damaged {}"], "templates": ["a photo of a {}."]}
    model = AprilGan("ViT-L-14-336", None, image_size=56, adapters=None, prompts=prompts, visualizer=False)
    model.adapters = model.loaded_adapters = (
        "mvtecad"  # a network that knows its adapters is validated without training
    )
    engine.validate(model, datamodule=data())
    (checkpoint,) = tmp_path.glob("**/model.ckpt")
    assert 12e6 < checkpoint.stat().st_size < 30e6
