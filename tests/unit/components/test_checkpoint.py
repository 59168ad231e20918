# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: damaged, dangerous, foreign, newer, old, of another model; and how they are written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim
from open_clip.model import CLIP

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule
from anomalib_aprilgan.clip.fingerprint import sampled_hash
from anomalib_aprilgan.components import checkpoint
from bad_files import DAMAGE, Malicious
from conftest import GOLDEN, rule_tensor

DATASET = GOLDEN / "dataset"
STORED = Path(__file__).parents[2] / "data" / "checkpoint_v1.ckpt"
Load = Callable[[Path], object]


def data() -> MVTecAD:
    return MVTecAD(DATASET, "bolt", train_batch_size=4, eval_batch_size=4, num_workers=0)


def auxiliary() -> AuxiliaryDataModule:
    return AuxiliaryDataModule(data(), categories=["bolt"], train_batch_size=9, num_workers=0)


def make_engine(folder: Path) -> Engine:
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    return Engine(default_root_dir=folder, enable_model_summary=False, **options)


@pytest.fixture(scope="module")
def arguments(tiny_arguments: dict) -> dict:
    return {**tiny_arguments, "adapters": None, "visualizer": False, "class_name": "bolt"}


@pytest.fixture(scope="module")
def trained(arguments: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of adapters after an epoch of training."""
    engine = make_engine(tmp_path_factory.mktemp("trained"))
    engine.fit(AprilGan(**arguments), datamodule=auxiliary())
    return Path(engine.trainer.checkpoint_callback.best_model_path)


@pytest.fixture(params=["load_from_checkpoint", "test", "fit", "adapters"])
def load(request: pytest.FixtureRequest, arguments: dict, tmp_path: Path) -> Load:
    """The four ways in which people use a checkpoint."""
    engine = make_engine(tmp_path / "results")
    return {
        "load_from_checkpoint": AprilGan.load_from_checkpoint,
        "test": lambda path: engine.test(AprilGan(**arguments), datamodule=data(), ckpt_path=path),
        "fit": lambda path: engine.fit(AprilGan(**arguments), datamodule=auxiliary(), ckpt_path=path),
        "adapters": lambda path: AprilGan(**{**arguments, "adapters": str(path)}),
    }[request.param]


@pytest.mark.parametrize("kind", ["empty", "cut off in the middle", "flipped bit"])
def test_damaged_files_are_refused(trained: Path, load: Load, tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    path = tmp_path / "some.ckpt"
    path.write_bytes(damage(trained.read_bytes()))
    with pytest.raises(ValueError, match=rf"some\.ckpt can't be read: {reason}"):
        load(path)


def test_code_is_refused(trained: Path, load: Load, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "april_gan": Malicious()}, tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match=r"some\.ckpt can't be read: .* might run code \(builtins\.print\)"):
        load(tmp_path / "some.ckpt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[1, 2], {"weight": torch.zeros(1)}], ids=["list", "bare weights"])
def test_files_of_other_programs_are_refused(load: Load, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match=r"some\.ckpt (can't be read: it is no checkpoint|holds no adapters)"):
        load(tmp_path / "some.ckpt")


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_a_checkpoint_of_another_model_of_anomalib_is_refused(load: Load, tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    padim = Padim(backbone="resnet10t", pre_trained=False, layers=["layer1"], n_features=8, visualizer=False)
    engine.fit(padim, datamodule=data())
    path = tmp_path / "padim.ckpt"
    engine.trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match=r"padim\.ckpt (can't be loaded\. This is not a checkpoint|holds no adapters)"):
        load(path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"version": 99}, "The checkpoint has version 99, this anomalib-aprilgan reads up to 2: upgrade it"),
        ({"version": None}, "This is not a checkpoint of AprilGan"),
        (None, "This is not a checkpoint of AprilGan"),
    ],
)
def test_newer_and_foreign_versions_are_refused(
    trained: Path, arguments: dict, tmp_path: Path, part: object, message: str
) -> None:
    path = tmp_path / "some.ckpt"
    torch.save({**torch.load(trained, weights_only=True), "april_gan": part}, path)
    with pytest.raises(ValueError, match=rf"some\.ckpt can't be loaded\. {message}"):
        AprilGan.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=rf"some\.ckpt can't be loaded\. {message}"):
        make_engine(tmp_path).test(AprilGan(**arguments), datamodule=data(), ckpt_path=path)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"image_size": 56}, "image_size: 70 there, 56 here"),
        ({"layers": [3, 6, 9, 11]}, r"layers: \[3, 6, 9, 12\] there, \[3, 6, 9, 11\] here"),
        ({"pretrained": None}, "clip_weights: "),
        ({"quick_gelu": True}, "quick_gelu: False there, True here"),
        ({"prompts": {"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": ["{}"]}}, "prompts: "),
        ({"backbone": "demo", "pretrained": None, "layers": None, "image_size": 224}, ".*stage_widths: .*embed_dim: "),
    ],
)
def test_another_model_is_refused_naming_the_difference(
    trained: Path, arguments: dict, tmp_path: Path, change: dict, difference: str
) -> None:
    message = rf"{trained.name} can't be loaded\. .*another model than the one that loads it: {difference}"
    with pytest.raises(ValueError, match=message):
        AprilGan.load_from_checkpoint(trained, **change)
    with pytest.raises(ValueError, match=message):
        make_engine(tmp_path).test(AprilGan(**{**arguments, **change}), datamodule=data(), ckpt_path=trained)


def test_fine_tuned_word_embeddings_are_another_model(trained: Path, arguments: dict, tmp_path: Path) -> None:
    """Also where 16 values per tensor are the same, which is all that checkpoints held until all were hashed."""
    state = torch.load(arguments["pretrained"])
    state["token_embedding.weight"][1] += 1.0
    torch.save(state, tmp_path / "tuned.pt")
    tuned = {"pretrained": str(tmp_path / "tuned.pt")}
    with pytest.raises(ValueError, match="clip_weights: "):
        AprilGan.load_from_checkpoint(trained, **tuned)
    content = torch.load(trained, weights_only=True)
    encoder = AprilGan(**arguments).model.encoder
    content["april_gan"]["model"]["clip_weights"] = sampled_hash(encoder.clip.state_dict())
    torch.save(content, tmp_path / "old.ckpt")
    assert AprilGan.load_from_checkpoint(tmp_path / "old.ckpt").loaded_adapters is not None
    with pytest.raises(ValueError, match="clip_weights: "):
        AprilGan.load_from_checkpoint(tmp_path / "old.ckpt", pretrained=None)


# --- arguments beside it ---


@pytest.fixture(scope="module")
def few_shot(arguments: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with golden adapters, two references, and thresholds from these."""
    folder = tmp_path_factory.mktemp("few")
    few = {"adapters": str(GOLDEN / "adapters.pth"), "k_shot": 2, "few_shot_source": str(DATASET / "bolt/train/good")}
    engine = make_engine(folder)
    model = AprilGan(**{**arguments, **few, "seed": 3, "coreset_sampling_ratio": 0.5, "false_positive_rate": 0.2})
    engine.predict(model, data_path=DATASET / "bolt/test/good/000.png")
    engine.trainer.save_checkpoint(folder / "few.ckpt")
    return folder / "few.ckpt"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        ({"adapters": "visa"}, ["adapters 'visa' (the checkpoint's: '{golden}')"]),
        ({"false_positive_rate": 0.01}, ["false_positive_rate 0.01 (the checkpoint's: 0.2)"]),
        (
            {"few_shot_source": None, "seed": 0, "with_replacement": True, "coreset_sampling_ratio": 1.0},
            [
                "with_replacement True (the checkpoint's: False)",
                "seed 0 (the checkpoint's: 3)",
                "coreset_sampling_ratio 1.0 (the checkpoint's: 0.5)",
            ],
        ),
        ({"seed": 4}, []),  # the files are there: references are drawn again
        ({"half_precision_memory": True}, []),
        ({"k_shot": 0}, []),
        ({"learning_rate": 0.5}, []),
    ],
)
def test_arguments_that_a_checkpoint_overrules_are_named(
    few_shot: Path, caplog: pytest.LogCaptureFixture, given: dict, named: list[str]
) -> None:
    model = AprilGan.load_from_checkpoint(few_shot, **given)
    model.prepare()
    found = [record.getMessage() for record in caplog.records if "are not used" in record.getMessage()]
    assert len(found) == bool(named)
    for each in named:
        assert each.format(golden=GOLDEN / "adapters.pth") in found[0]
    if named:
        assert found[0].count("the checkpoint's") == len(named)
    half = given.get("half_precision_memory", False)
    assert model.model.memory.dtype == (torch.bfloat16 if half else torch.float32)
    assert model.model.references.seed == (4 if given.get("seed") == 4 else 0 if given.get("k_shot") == 0 else 3)
    assert model.post_processor.false_positive_rate == 0.2


def test_the_same_arguments_by_ckpt_path(few_shot: Path, arguments: dict, caplog: pytest.LogCaptureFixture) -> None:
    few = {"k_shot": 2, "few_shot_source": str(DATASET / "bolt/train/good"), "seed": 3, "coreset_sampling_ratio": 0.5}
    adapters = few_shot.with_name("copy.pth")  # another name, the same content
    adapters.write_bytes((GOLDEN / "adapters.pth").read_bytes())
    for rate in (0.2, 0.1):
        model = AprilGan(**{**arguments, **few, "adapters": str(adapters), "false_positive_rate": rate})
        make_engine(few_shot.parent).predict(model, data_path=DATASET / "bolt/test/good/000.png", ckpt_path=few_shot)
        assert ("are not used" in caplog.text) == (rate == 0.1)
    assert "decides: false_positive_rate 0.1 (the checkpoint's: 0.2)." in caplog.text


def test_a_resumed_training_names_the_learning_rate(
    trained: Path, arguments: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AprilGan(**arguments, learning_rate=0.5, false_positive_rate=0.3)
    make_engine(tmp_path).fit(model, datamodule=auxiliary(), ckpt_path=trained)
    assert "decides: learning_rate 0.5 (the checkpoint's: 0.001)." in caplog.text
    assert model.post_processor.false_positive_rate == 0.3  # no thresholds yet: obeyed


# --- writing ---


def test_a_failed_save_leaves_the_old_checkpoint(
    arguments: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full, or the process is stopped in the middle."""
    engine = make_engine(tmp_path)
    engine.validate(AprilGan(**arguments), datamodule=data())
    path = tmp_path / "own" / "model.ckpt"
    engine.trainer.save_checkpoint(path)
    before = path.read_bytes()

    def save_half(content: object, file: object) -> None:
        del content
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(KeyboardInterrupt):
        engine.trainer.save_checkpoint(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_ways_of_storage_that_the_user_chose_are_kept(arguments: dict, tmp_path: Path) -> None:
    class Own(checkpoint.AnomalibCheckpointIO):
        pass

    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, plugins=[Own()], barebones=False)
    engine.validate(AprilGan(**arguments), datamodule=data())
    assert type(engine.trainer.strategy.checkpoint_io) is Own


def test_addresses_are_left_to_lightning(trained: Path, tmp_path: Path) -> None:
    """Such as those of object stores, which write files as a whole anyway."""
    storage, content = checkpoint.WholeCheckpointIO(), torch.load(trained, weights_only=True)
    address = f"file://{tmp_path / 'some.ckpt'}"
    storage.save_checkpoint(content, address)
    assert storage.load_checkpoint(address)["april_gan"] == content["april_gan"]
    assert isinstance(AprilGan.load_from_checkpoint(address), AprilGan)


# --- the past ---


def test_the_first_version_is_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint of 2026-11, two-shot, with the numbers that the code of that time computed from it."""
    vision = {"image_size": 28, "layers": 2, "width": 16, "head_width": 8, "patch_size": 14}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.chdir(tmp_path)  # it names its CLIP by relative paths
    Path("clip.json").write_text(json.dumps(config))
    torch.save({name: rule_tensor(name, each.shape) for name, each in CLIP(**config).state_dict().items()}, "clip.pt")

    model = AprilGan.load_from_checkpoint(STORED, visualizer=False).eval()
    with torch.no_grad():
        prediction = model.model(torch.linspace(0, 1, 2 * 3 * 28 * 28).reshape(2, 3, 28, 28).sin())
    torch.testing.assert_close(prediction.pred_score, torch.tensor([3.21160, 0.58886]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        prediction.anomaly_map.mean(dim=(1, 2)), torch.tensor([2.76556, 1.90641]), atol=1e-4, rtol=0
    )
    assert model.reference_paths == ["good0.png", "good1.png"]
    assert model.loaded_adapters == "mvtecad"
    content = torch.load(STORED, weights_only=True)
    content["april_gan"]["adapters"] = None  # such as those of a training
    torch.save(content, "trained.ckpt")
    assert AprilGan.load_from_checkpoint("trained.ckpt", visualizer=False).loaded_adapters is not None

    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        make_engine(tmp_path).predict(model, data_path=DATASET / "bolt/test/good/000.png", ckpt_path=STORED)
    assert "Target changed" not in caplog.text
    thresholds = torch.stack([model.post_processor.image_threshold, model.post_processor.pixel_threshold])
    torch.testing.assert_close(thresholds, torch.tensor([0.4692, 2.1343]), atol=1e-4, rtol=0)
