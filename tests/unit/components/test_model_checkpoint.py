# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What a validation calibrates is one file, written when it is new."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from anomalib_aprilgan import AprilGan
from conftest import Engines, Models, golden_data


def checkpoints(root: Path) -> dict[str, int]:
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in root.rglob("*.ckpt")}


@pytest.mark.parametrize("shots", [0, 2])
def test_validations_that_find_the_same_write_nothing(
    make_model: Models, engine: Engines, tmp_path: Path, caplog: pytest.LogCaptureFixture, shots: int
) -> None:
    data = golden_data(eval_batch_size=4)
    with caplog.at_level(logging.INFO):
        engine(tmp_path).fit(make_model(k_shot=shots), datamodule=data)
        first = checkpoints(tmp_path)
        for action in ("test", "predict"):
            getattr(engine(tmp_path), action)(make_model(k_shot=shots), datamodule=data)
    assert checkpoints(tmp_path) == first
    assert set(first) == {"model.ckpt"}
    assert "`weights_only` was not set" not in caplog.text
    said = {record.args[0] for record in caplog.records if "are kept in" in record.msg}
    assert {Path(path).resolve() for path in said} == set(tmp_path.rglob("model.ckpt"))
    # Another content is another file: no checkpoint is replaced.
    engine(tmp_path).test(make_model(k_shot=1), datamodule=data)
    assert checkpoints(tmp_path).items() > first.items()
    assert set(checkpoints(tmp_path)) == {"model.ckpt", "model-v1.ckpt"}


def test_a_dry_run_writes_no_checkpoint(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    engine(tmp_path, fast_dev_run=True).test(make_model(), datamodule=golden_data())
    assert not checkpoints(tmp_path)


def test_a_validation_of_a_model_to_be_trained_is_kept(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """anomalib keeps none."""
    model = make_model(adapters=None)
    engine(tmp_path).validate(model, datamodule=golden_data())
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = AprilGan.load_from_checkpoint(path, visualizer=False)
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold
