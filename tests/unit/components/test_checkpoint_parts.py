# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Several parts in one checkpoint: each as a model of its own, the others as they were, or nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pandas as pd
import pytest
import torch

from anomalib_aprilgan import AprilGan, load_export
from anomalib_aprilgan.components.part_changes import add_part, drop_part, export_parts, table_of_parts
from anomalib_aprilgan.components.part_predictions import images_by_part, predict_parts
from anomalib_aprilgan.components.reference_changes import change_references, table_of
from anomalib_aprilgan.components.reference_plans import added
from conftest import BOLT, GOLDEN, GOOD, Engines, Models

TRAIN, SCRATCH = BOLT / "train" / "good", BOLT / "test" / "scratch" / "000.png"
NUT = [TRAIN / "002.png", TRAIN / "003.png"]
CNN = {"pretrained": None, "image_size": 64, "layers": None}
Make = Callable[..., Path]


@pytest.fixture
def own(make_model: Models, engine: Engines, clip_folder: Path, tmp_path: Path) -> Make:
    """Writes a checkpoint whose own target are bolts."""

    def save(shots: int = 1, **options: object) -> Path:
        if options:
            options.update(backbone=str(clip_folder / "resnet.json"), adapters=None)
        source = [str(TRAIN / f"{number:03}.png") for number in range(shots)] or None
        model = make_model(k_shot=shots, few_shot_source=source, class_name="bolt", **options)
        made = engine(tmp_path / "own")
        made.predict(model, data_path=SCRATCH)
        made.trainer.save_checkpoint(tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    return save


def predicted(model: AprilGan, engine: Engines, folder: Path, path: Path | None = None) -> tuple:
    (batch,) = engine(folder).predict(model, data_path=SCRATCH, ckpt_path=path)
    own = model.post_processor
    return batch.raw_score, batch.pred_score, batch.anomaly_map, own.image_threshold, own.pixel_threshold


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip")


def assert_same(one: tuple, other: tuple) -> None:
    for value, expected in zip(one, other, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", [{}, CNN], ids=["vit", "cnn"])
@pytest.mark.parametrize("references", [NUT, []], ids=["few-shot", "zero-shot"])
def test_a_part_is_the_model_that_is_set_up_with_its_images(
    own: Make, engine: Engines, tmp_path: Path, options: dict, references: list[Path]
) -> None:
    path = own(**options)
    before = predicted(AprilGan.load_from_checkpoint(path), engine, tmp_path / "a", path)
    lines = add_part(AprilGan, path, "nut", references)
    assert lines[0] == "Part 'nut', class name 'nut'"
    part = AprilGan.load_from_checkpoint(path, part="nut")
    arguments = {**part.hparams, "part": None, "class_name": "nut", "k_shot": len(references)}
    adapters = None if options else str(GOLDEN / "adapters.pth")
    new = AprilGan(**{**arguments, "few_shot_source": [*map(str, references)] or None, "adapters": adapters})
    new.model.adapters.load_state_dict(part.model.adapters.state_dict())
    new.loaded_adapters = part.loaded_adapters
    assert_same(predicted(part, engine, tmp_path / "b", path), predicted(new, engine, tmp_path / "c"))
    assert part.reference_paths == [*map(str, references)]
    base = AprilGan.load_from_checkpoint(path, part="")
    assert_same(predicted(base, engine, tmp_path / "d", path), before)  # it stayed as it was


def test_references_of_a_part_are_its_own(own: Make) -> None:
    path = own()
    add_part(AprilGan, path, "nut", NUT[:1], class_name="hexagon nut")
    add_part(AprilGan, path, "moon", [])
    change_references(AprilGan, path, added(NUT[1:]), "nut")
    assert "2 references" in " ".join(change_references(AprilGan, path, added([TRAIN / "001.png"])))
    model = AprilGan.load_from_checkpoint(path, part="nut")
    assert (model.model.class_name, model.reference_paths) == ("hexagon nut", [*map(str, NUT)])
    assert [line.split()[0] for line in table_of_parts(AprilGan, path).splitlines()[1:]] == ["nut", "moon"]
    assert "002.png" in table_of(AprilGan, path, "nut")
    assert "001.png" in table_of(AprilGan, path)
    drop_part(AprilGan, path, "nut")
    drop_part(AprilGan, path, "moon")
    assert table_of_parts(AprilGan, path) == "no parts"


def test_a_checkpoint_of_a_loaded_part_is_its_alone(own: Make, engine: Engines, tmp_path: Path) -> None:
    path = own()
    add_part(AprilGan, path, "nut", NUT)
    model, made = AprilGan.load_from_checkpoint(path, part="nut"), engine(tmp_path / "nut")
    made.predict(model, data_path=SCRATCH)
    made.trainer.save_checkpoint(tmp_path / "nut.ckpt")
    alone = AprilGan.load_from_checkpoint(tmp_path / "nut.ckpt")
    assert alone.part is None
    assert_same(predicted(alone, engine, tmp_path / "a"), predicted(model, engine, tmp_path / "b", path))


def test_images_of_several_parts_in_one_table(own: Make, engine: Engines, tmp_path: Path) -> None:
    path, data = own(), tmp_path / "data"
    expected = {}
    for name, images in {"nut": NUT, "washer": []}.items():
        add_part(AprilGan, path, name, images)
        shutil.copytree(BOLT / "test" / "scratch", data / name)
        model = AprilGan.load_from_checkpoint(path, part=name)
        expected[name] = predicted(model, engine, tmp_path / name, path)[0].item()
    table = read(predict_parts(AprilGan, path, data, tmp_path / "results"))
    first = table[table.image_path.str.endswith("000.png")].set_index("part")
    for name, score in expected.items():
        assert first.raw_score[name] == pytest.approx(score, rel=0, abs=0)
    assert [*first.threshold_origin] == ["2 references (too few for a rate of 0.01)", "no threshold"]
    assert (tmp_path / "results" / "v0" / "predictions.csv").is_file()
    listed = pd.DataFrame({"image_path": ["data/washer/000.png", "data/nut/000.png"], "part": ["nut", "washer"]})
    listed.to_csv(tmp_path / "list.csv", index=False)
    again = predict_parts(AprilGan, path, tmp_path / "list.csv", tmp_path / "results")
    assert again == tmp_path / "results" / "v1" / "predictions.csv"
    found = read(again).set_index("part")
    assert found.raw_score.to_dict() == pytest.approx(expected, rel=0, abs=0)


@pytest.mark.slow
def test_exports_of_parts_share_nothing(own: Make, tmp_path: Path) -> None:
    path = own()
    images = torch.rand(2, 3, 56, 56)
    for name, references in {"nut": NUT, "washer": []}.items():
        add_part(AprilGan, path, name, references)
    torch_files = export_parts(AprilGan, path, tmp_path / "torch", "torch")
    onnx_files = export_parts(AprilGan, path, tmp_path / "onnx", "onnx")
    assert [file.relative_to(tmp_path / "torch").parts[0] for file in torch_files] == ["nut", "washer"]
    path.unlink()
    scores = []
    for file, onnx in zip(torch_files, onnx_files, strict=True):
        found = load_export(file)(images)
        scores.append(found.pred_score)
        session = onnxruntime.InferenceSession(onnx)
        (raw,) = session.run(["pred_score"], {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(raw).flatten(), found.pred_score, rtol=0, atol=1e-3)
    assert not torch.equal(*scores)


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "named like a folder"), ("a/b", "got 'a/b'"), (".x", "no slash, no dot"), ("nut", "a part 'nut' already")],
)
def test_names_that_can_not_be(own: Make, name: str, message: str) -> None:
    path = own()
    add_part(AprilGan, path, "nut", [])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        add_part(AprilGan, path, name, NUT)
    assert path.read_bytes() == before


def test_parts_that_are_not_there(own: Make, make_model: Models, engine: Engines, tmp_path: Path) -> None:
    path = own()
    with pytest.raises(ValueError, match=r"no part 'nut' in the checkpoint; it has none \(aprilgan parts add\)"):
        AprilGan.load_from_checkpoint(path, part="nut")
    with pytest.raises(ValueError, match="has no parts"):
        export_parts(AprilGan, path, tmp_path, "torch")
    add_part(AprilGan, path, "nut", [])
    with pytest.raises(ValueError, match="no part 'moon' in the checkpoint; its parts are: nut"):
        drop_part(AprilGan, path, "moon")
    with pytest.raises(ValueError, match=r"is one of a checkpoint's: give the checkpoint \(`ckpt_path`\)"):
        engine(tmp_path / "none").predict(make_model(part="nut"), data_path=SCRATCH)
    with pytest.raises(ValueError, match=r"leave out \['class_name', 'k_shot'\]"):
        make_model(part="nut", class_name="nut", k_shot=2)


def test_the_own_target_of_a_checkpoint_with_parts_is_said(own: Make, caplog: pytest.LogCaptureFixture) -> None:
    path = own()
    add_part(AprilGan, path, "nut", [])
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        change_references(AprilGan, path, added(NUT))
        assert "holds the parts" not in caplog.text
        AprilGan.load_from_checkpoint(path)
    assert "holds the parts nut. Its own target is used" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "does not exist: expected a folder"),
        ({"a.png": b""}, "these files are of no part: a.png"),
        ({"bolt/000.png": GOOD / "000.png"}, "has no part 'bolt', as .* names it; its parts are: nut"),
        ({"nut/note.txt": b""}, "0 images"),
        ({"data.csv": b"image_path,kind\na.png,nut\n"}, "must have the columns image_path, part"),
        ({"data.csv": b"image_path,part\n"}, "got 0 rows"),
        ({"data.csv": b"image_path,part\na.png,nut\n"}, "1 images that .* names are not there: .*a.png"),
        ({"data.csv": b"\xff\xfe\x00"}, "can't be read as a table"),
    ],
)
def test_data_of_no_part(tmp_path: Path, files: dict, message: str) -> None:
    data = tmp_path / "data"
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    table = data / "data.csv"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        images_by_part(table if table.exists() else data, ["nut"])
