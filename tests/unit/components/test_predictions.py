# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What a test or a prediction leaves behind: the table, the closing line, the contact sheet."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.post_processing import PostProcessor
from lightning.pytorch.cli import SaveConfigCallback
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_aprilgan import AprilGan, AprilGanPostProcessor
from anomalib_aprilgan.components.contact_sheet import GAP, LINE, MOST, SHEET, SIDE, ContactSheet
from conftest import BOLT, GOOD, Engines, Models, golden_data

COLUMNS = (
    "image_path,raw_score,pred_score,raw_threshold,threshold,pred_label,gt_label,percentile,threshold_origin,model"
)
REFERENCES = sorted(str(path) for path in (BOLT / "train" / "good").iterdir())
FEW = {"class_name": "bolt", "k_shot": 4, "few_shot_source": REFERENCES}


def read(folder: Path) -> pd.DataFrame:
    """The only table in a folder."""
    (table,) = folder.rglob("predictions.csv")
    return pd.read_csv(table, float_precision="round_trip")


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("action", ["test", "predict"])
def test_a_row_has_score_threshold_truth_and_percentile(
    make_model: Models, engine: Engines, tmp_path: Path, caplog: pytest.LogCaptureFixture, action: str, shots: int
) -> None:
    """With labelled validation images; `test` and `predict` write the same."""
    model = make_model(k_shot=shots)
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        getattr(engine(tmp_path), action)(model, datamodule=golden_data())
    table, raw_threshold = read(tmp_path), float(model.post_processor.image_threshold)
    assert list(table) == COLUMNS.split(",")
    assert len(table) == 9
    assert (table.raw_threshold == raw_threshold).all()
    assert (table.threshold == 0.5).all()
    assert ((table.raw_score >= raw_threshold) == table.pred_label).all()
    assert (table.gt_label == ["good" not in path for path in table.image_path]).all()
    assert (table.raw_score.rank() == table.pred_score.rank()).all()
    normal = table.raw_score[~table.gt_label]  # they validated too
    assert list(table.percentile) == [100 * (normal < score).mean() for score in table.raw_score]
    assert set(table.threshold_origin) == {"9 validation images"}
    found = (
        f"{table.pred_label.sum()} of 9 abnormal; threshold {raw_threshold:.4g} (raw score) from 9 validation images"
    )
    assert f"{found}; results in {tmp_path}" in caplog.text


def test_thresholds_of_references_say_so_also_from_a_checkpoint(
    make_model: Models, engine: Engines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(**FEW)
    first = engine(tmp_path / "first")
    first.predict(model, data_path=GOOD)
    first.trainer.save_checkpoint(tmp_path / "model.ckpt")
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        engine(tmp_path / "second").predict(
            make_model(class_name="bolt", k_shot=4), data_path=GOOD, ckpt_path=tmp_path / "model.ckpt"
        )
    one, other = read(tmp_path / "first"), read(tmp_path / "second")
    pd.testing.assert_frame_equal(one, other)
    assert set(one.threshold_origin) == {"4 references (too few for a rate of 0.01)"}
    scores = torch.tensor(model.post_processor.normal_scores)
    assert len(scores) == 16
    assert list(one.percentile) == [100 * float((scores < score).float().mean()) for score in one.raw_score]
    assert "from 4 references (too few for a rate of 0.01); results in" in caplog.text


def test_older_checkpoints_do_not_say_what_they_were_calibrated_on(make_model: Models) -> None:
    model = make_model(**FEW)
    model.prepare()
    new = AprilGanPostProcessor()
    config = model.post_processor.checkpoint_config()
    new.load_checkpoint_config(config)
    assert new.threshold_origin == "4 references (too few for a rate of 0.01)"
    new.load_checkpoint_config({key: config[key] for key in config if key not in {"calibrated_on", "normal_scores"}})
    assert (new.threshold_origin, new.normal_scores) == ("an older checkpoint", [])


@pytest.mark.parametrize(
    ("options", "origin", "threshold"),
    [
        ({}, "no threshold", None),
        ({"post_processor": False}, "no threshold", None),
        ({"post_processor": AprilGanPostProcessor(image_sensitivity=0.7)}, "`image_sensitivity` 0.7", 0.3),
        ({**FEW, "post_processor": AprilGanPostProcessor(enable_thresholding=False)}, "no threshold", None),
        ({"post_processor": PostProcessor()}, "no threshold", None),
    ],
)
def test_no_threshold_is_no_decision(
    make_model: Models,
    engine: Engines,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict,
    origin: str,
    threshold: float | None,
) -> None:
    """anomalib's own field stays what its components need."""
    with caplog.at_level(logging.INFO, "anomalib_aprilgan"):
        batches = engine(tmp_path).predict(make_model(**{"class_name": "bolt", **options}), data_path=GOOD)
    table = read(tmp_path)
    assert set(table.threshold_origin) == {origin}
    assert (table.percentile.isna() == ("k_shot" not in options)).all()
    assert table.raw_threshold.isna().all()
    if threshold is None:
        assert table[["threshold", "pred_label", "gt_label"]].isna().all(axis=None)
        assert f"{len(table)} images by score; no threshold" in caplog.text
    else:
        assert list(table.threshold) == pytest.approx([threshold] * len(table))
        assert list(table.pred_label) == [bool(batch.pred_label) for batch in batches]
    torch.testing.assert_close(torch.tensor(list(table.raw_score)), torch.cat([batch.raw_score for batch in batches]))


def test_fingerprints_tell_models_apart(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """The same model has the same one, whatever its references are called; any other has another."""
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(REFERENCES[0]).read_bytes())
    models = [
        FEW,
        {**FEW, "few_shot_source": [str(copy), *REFERENCES[1:]]},
        {"class_name": "bolt"},
        {"class_name": "nut"},
    ]
    models += [{**FEW, "k_shot": 3, "few_shot_source": REFERENCES[:3]}, {**FEW, "adapters": None}]
    found = []
    for number, options in enumerate(models):
        engine(tmp_path / str(number)).predict(make_model(**options), data_path=GOOD / "000.png")
        found += set(read(tmp_path / str(number)).model)
    assert found[0] == found[1]
    assert len(set(found)) == len(models) - 1


@pytest.mark.parametrize("action", ["test", "predict"])
def test_a_dry_run_leaves_nothing(make_model: Models, engine: Engines, tmp_path: Path, action: str) -> None:
    getattr(engine(tmp_path, fast_dev_run=True), action)(make_model(visualizer=True), datamodule=golden_data())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".runs.lock"] == []


def test_own_images_without_paths(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    data = PredictDataset(GOOD)

    def without_paths(items: list) -> object:
        return data.collate_fn(items).update(image_path=None)

    engine(tmp_path).test(make_model(class_name="bolt"), dataloaders=DataLoader(data, collate_fn=without_paths))
    table = read(tmp_path)
    assert table.image_path.isna().all()
    assert table.raw_score.notna().all()


def test_the_contact_sheet_holds_the_highest_scores_and_no_more() -> None:
    sheet = ContactSheet()
    for number in range(200):
        red = Image.new("RGB", (400, 300), (number, 0, 0))
        sheet.add(number / 200, Path(f"parts/{number}.png"), "", red)
    assert [entry.name for entry in sheet.entries] == [f"parts/{number}.png" for number in range(199, 199 - MOST, -1)]
    assert max(max(entry.picture.size) for entry in sheet.entries) == SIDE
    drawn = sheet.draw()
    first, second = (drawn.getpixel((GAP + left + SIDE // 2, 2 * LINE + SIDE // 2)) for left in (0, SIDE + GAP))
    assert (first, second) == ((199, 0, 0), (198, 0, 0))
    assert max(drawn.size) < 3000


def test_a_run_has_a_contact_sheet(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    engine(tmp_path).test(make_model(visualizer=True), datamodule=golden_data())
    (path,) = tmp_path.rglob(SHEET)
    assert (path.parent / "predictions.csv").exists()
    with Image.open(path) as sheet:
        assert sheet.width > 6 * SIDE


def test_the_command_line_keeps_no_predictions(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """It drops them; with their images they would fill the memory."""

    class CommandLine(SaveConfigCallback):
        def setup(self, *_args: object, **_kwargs: object) -> None:
            """Saves nothing."""

    callback = CommandLine(None, None)
    assert engine(tmp_path, callbacks=[callback]).predict(make_model(class_name="bolt"), data_path=GOOD) is None
    assert len(read(tmp_path)) == len(list(GOOD.iterdir()))


def test_the_model_of_a_checkpoint_has_its_fingerprint(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    first = engine(tmp_path / "a")
    first.predict(make_model(**FEW), data_path=GOOD / "000.png")
    first.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = AprilGan.load_from_checkpoint(tmp_path / "model.ckpt")
    engine(tmp_path / "b").predict(loaded, data_path=GOOD / "000.png")
    assert list(read(tmp_path / "a").model) == list(read(tmp_path / "b").model)
