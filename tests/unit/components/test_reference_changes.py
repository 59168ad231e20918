# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""References of a checkpoint that are added, dropped and replaced: the same as a new set-up, or nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components import reference_changes as changes
from anomalib_aprilgan.components import reference_plans as plans
from anomalib_aprilgan.components.checkpoint import without_encoder
from conftest import BOLT, GOLDEN, GOOD, Engines, Models, golden_data

CNN = {"pretrained": None, "image_size": 64, "layers": None, "adapters": None}
OPTIONS = {
    "paper": {},
    "coreset": {"coreset_sampling_ratio": 0.5},
    "half": {"half_precision_memory": True, "false_positive_rate": 0.3},
    "beyond": {"reference_rotations": 4, "neighbourhoods": [1, 3], "reference_embeddings": True},
    "cnn": CNN,
    "eyes": {"memory_backbone": "test_vit", "memory_pretrained": False, "memory_layers": [3, 6]},
    "tiles": {"tiles": [2, 2], "aligned": True, "score_fraction": 0.01},
}
Save = Callable[..., Path]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Four references, in a folder that may be changed."""
    return Path(shutil.copytree(BOLT / "train" / "good", tmp_path / "good"))


@pytest.fixture
def saved(make_model: Models, engine: Engines, clip_folder: Path, good: Path, tmp_path: Path) -> Save:
    """Writes the checkpoint of a prediction."""

    def save(shots: int, **options: object) -> Path:
        if options.get("image_size") == 64:
            options["backbone"] = str(clip_folder / "resnet.json")
        source = [str(good / f"{number:03}.png") for number in range(shots)] or None
        model = make_model(k_shot=shots, few_shot_source=source, class_name="bolt", **options)
        made = engine(tmp_path / "run")
        made.predict(model, data_path=GOOD / "000.png")
        made.trainer.save_checkpoint(tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    return save


def record(path: Path) -> dict:
    return torch.load(path, weights_only=True)["april_gan"]["target"]["references"]


def assert_as_if_new(path: Path, files: list[Path]) -> None:
    """The checkpoint is that of a model that is set up with all of these files."""
    loaded = AprilGan.load_from_checkpoint(path).eval()
    arguments = {**loaded.hparams, "few_shot_source": [*map(str, files)], "k_shot": len(files)}
    arguments["adapters"] = str(GOLDEN / "adapters.pth") if loaded.adapters else None
    arguments["class_name"] = loaded.model.class_name
    new = AprilGan(**arguments).eval()
    new.model.adapters.load_state_dict(loaded.model.adapters.state_dict())
    new.prepare()
    loaded.prepare()
    expected, found = (without_encoder(module.state_dict()) for module in (new, loaded))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
    images = torch.linspace(-1, 1, 3 * loaded.model.image_size**2).reshape(1, 3, *[loaded.model.image_size] * 2)
    with torch.no_grad():
        for one, other in zip(loaded(images), new(images), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert loaded.model.references == new.model.references
    assert loaded.reference_paths == [*map(str, files)]


@pytest.mark.parametrize(("shots", "options"), [(2, each) for each in OPTIONS] + [(0, "paper"), (0, "cnn")])
def test_added_equals_set_up_with_all(saved: Save, good: Path, shots: int, options: str) -> None:
    path = saved(shots, **OPTIONS[options])
    images = [good / f"{number:03}.png" for number in range(4)]
    lines = changes.change_references(AprilGan, path, plans.added([good]))
    assert_as_if_new(path, images)
    assert lines[-3].startswith("4 references: 000.png")
    assert len(lines) == (4 if shots else 3)


@pytest.mark.parametrize("options", ["coreset", "beyond", "cnn"])
def test_dropped_and_replaced_equal_set_up_with_the_rest(saved: Save, good: Path, options: str) -> None:
    path = saved(4, **OPTIONS[options])
    lines = changes.change_references(AprilGan, path, plans.dropped(["2", str(good / "000.png")]))
    assert lines[0] == f"Dropped: {good / '000.png'}, {good / '001.png'}"
    assert_as_if_new(path, [good / "002.png", good / "003.png"])
    changes.change_references(AprilGan, path, plans.replaced([GOOD / "001.png", good / "003.png"]))
    assert_as_if_new(path, [good / "003.png", GOOD / "001.png"])


@pytest.mark.parametrize("shots", [0, 2])
def test_arguments_of_the_model_do_not_bring_the_old_ones_back(
    saved: Save, make_model: Models, engine: Engines, good: Path, caplog: pytest.LogCaptureFixture, shots: int
) -> None:
    """As with a configuration file that was written for the first references."""
    path = saved(2)
    changes.change_references(AprilGan, path, plans.added([good / "003.png"]))
    thresholds = AprilGan.load_from_checkpoint(path).post_processor.image_threshold
    for data in ({"data_path": GOOD / "000.png"}, {"datamodule": golden_data()}):
        model = make_model(k_shot=shots, few_shot_source=str(good) if shots else None, class_name="bolt")
        caplog.clear()
        with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
            engine().predict(model, ckpt_path=path, **data)
        assert [Path(each).name for each in model.reference_paths] == ["000.png", "001.png", "003.png"]
        assert model.post_processor.image_threshold == thresholds
        named = "k_shot 2 (the checkpoint's: 3), few_shot_source"
        assert (named in caplog.text) == bool(shots)
        assert "Target changed" not in caplog.text


def test_a_validation_gives_way_to_the_references(
    saved: Save, make_model: Models, engine: Engines, good: Path, tmp_path: Path
) -> None:
    path = saved(0)
    model = make_model(k_shot=2, few_shot_source=[str(good / "000.png"), str(good / "001.png")], class_name="bolt")
    validated = engine(tmp_path / "validated")
    validated.validate(model, datamodule=golden_data())
    validated.trainer.save_checkpoint(path)
    assert not model.model.score_bounds.isnan().any()
    lines = changes.change_references(AprilGan, path, plans.added([good / "002.png"]))
    assert changes.VALIDATED in lines
    assert_as_if_new(path, [good / f"00{number}.png" for number in range(3)])


def test_the_record_tells_which_image_came_when(saved: Save, good: Path) -> None:
    path = saved(2)
    content = torch.load(path, weights_only=True)
    first = content["april_gan"]["target"]["references"].pop("added")  # as in old checkpoints
    assert all(datetime.fromisoformat(time).tzinfo for time in first)
    torch.save(content, path)
    assert changes.table_of(AprilGan, path).count("not recorded") >= 2
    changes.change_references(AprilGan, path, plans.added([good / "002.png"]))
    added = record(path)["added"]
    assert added[:2] == [plans.NO_TIME] * 2
    assert datetime.fromisoformat(added[2]).tzinfo
    (good / "000.png").unlink()
    (good / "001.png").write_bytes((GOOD / "000.png").read_bytes())
    rows = changes.table_of(AprilGan, path).splitlines()[1:]
    for row, state in zip(rows, ["missing", "has changed", "ok"], strict=True):
        assert row.endswith(state)
        assert str(good) in row
        assert " yes " in row


def test_copies_are_named_and_moved_files_are_found(saved: Save, good: Path, tmp_path: Path) -> None:
    path = saved(2)
    moved = tmp_path / "moved"
    good.rename(moved)
    shutil.copy(moved / "003.png", moved / "004.png")
    lines = changes.change_references(AprilGan, path, plans.added([moved]))
    assert lines[0] == f"Left out, copies: {moved / '004.png'}"
    assert lines[1] == f"Found again: {moved / '000.png'}, {moved / '001.png'}"
    assert_as_if_new(path, [moved / f"00{number}.png" for number in range(4)])
    lines = changes.change_references(AprilGan, path, plans.added([moved / "000.png", GOOD / "000.png"]))
    assert lines[0] == f"Left out, already references: {moved / '000.png'}"
    assert len(record(path)["paths"]) == 5


@pytest.mark.parametrize(
    ("plan", "files", "message"),
    [
        (plans.added, ["good/000.png"], "Nothing to add: .*000.png: already references"),
        (plans.added, ["none.png"], r"Nothing was changed(.|\n)*Path does not exist: '.*none.png'"),
        (plans.added, ["good/.hidden.png", "none.png"], r"hidden.png' is a hidden file(.|\n)*none.png"),
        (plans.added, ["good/bad.png"], r"bad.png' can't be read as an image"),
        (plans.added, ["mixed"], "seems to hold defects or masks: scratch"),
        (plans.replaced, ["empty"], "holds no images"),
        (plans.dropped, ["7"], "'7' is none of the references. There are: 1 .*000.png; 2 .*001.png"),
        (plans.dropped, ["1", "000.png", "001.png"], "No reference would be left.*replace"),
    ],
)
def test_wrong_input_changes_nothing(
    saved: Save, good: Path, tmp_path: Path, plan: Callable, files: list[str], message: str
) -> None:
    path = saved(2)
    before = path.read_bytes()
    (good / "bad.png").write_bytes((good / "000.png").read_bytes()[:200])
    shutil.copy(good / "002.png", good / ".hidden.png")
    for folder in ("empty", "mixed/good", "mixed/scratch"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "empty":
            shutil.copy(good / "002.png", tmp_path / folder)
    given = files if plan is plans.dropped else [tmp_path / file for file in files]
    with pytest.raises(ValueError, match=message):
        changes.change_references(AprilGan, path, plan(given))
    assert path.read_bytes() == before


def test_thresholds_need_the_files_of_all(saved: Save, good: Path) -> None:
    path = saved(2)
    (good / "001.png").write_bytes((good / "003.png").read_bytes())
    (good / "000.png").unlink()
    with pytest.raises(ValueError, match=r"missing or have other content now: .*000.png, .*001.png\. Put them back"):
        changes.change_references(AprilGan, path, plans.added([good / "002.png"]))
    changes.change_references(AprilGan, path, plans.replaced([good]))
    assert_as_if_new(path, [good / "001.png", good / "002.png"])


def test_references_without_files_can_only_be_replaced(
    make_model: Models, engine: Engines, good: Path, tmp_path: Path
) -> None:
    model, path, made = make_model(), tmp_path / "model.ckpt", engine(tmp_path / "run")
    model.model.setup("bolt", torch.randn(2, 3, 70, 70))
    made.predict(model, data_path=GOOD / "000.png")
    made.trainer.save_checkpoint(path)
    assert changes.table_of(AprilGan, path) == "2 references, given without files"
    with pytest.raises(ValueError, match="given as tensors, without files: replace them all"):
        changes.change_references(AprilGan, path, plans.added([good]))
    changes.change_references(AprilGan, path, plans.replaced([good / "001.png", good / "002.png"]))
    assert_as_if_new(path, [good / "001.png", good / "002.png"])


@pytest.mark.parametrize("kind", ["missing", "damaged", "foreign"])
def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    path, message = tmp_path / "some.ckpt", "some.ckpt can't be"
    if kind == "missing":
        message = "There is no checkpoint .*some.ckpt"
    elif kind == "damaged":
        path.write_bytes(b"\x80")
    else:
        torch.save({"state_dict": {}}, path)
    for act in (changes.table_of, lambda *given: changes.change_references(*given, plans.dropped(["1"]))):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            act(AprilGan, path)


def test_a_link_to_a_checkpoint_stays_a_link(saved: Save, good: Path, tmp_path: Path) -> None:
    path = saved(2)
    link = tmp_path / "latest.ckpt"
    link.symlink_to(path)
    changes.change_references(AprilGan, link, plans.added([good / "003.png"]))
    assert link.is_symlink()
    assert len(record(path)["paths"]) == 3


def test_the_first_version_is_changed_too(tmp_path: Path) -> None:
    """Its references' files are not known by their content."""
    stored = GOLDEN.parent / "data" / "checkpoint_v1.ckpt"
    path = tmp_path / "old.ckpt"
    shutil.copy(stored, path)
    assert changes.table_of(AprilGan, path).count("missing") == 2
    with pytest.raises(ValueError, match=r"missing or have other content now: good0.png, good1.png"):
        changes.change_references(AprilGan, path, plans.added([GOOD / "000.png"]))
    assert path.read_bytes() == stored.read_bytes()
