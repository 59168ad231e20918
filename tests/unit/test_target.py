# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Targets: equal by content, set all or nothing, kept in checkpoints; an encoding is scored for as many as wanted."""

from __future__ import annotations

import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anomalib_aprilgan import AprilGan, AprilGanModel
from anomalib_aprilgan.clip.encoder import Encoded
from anomalib_aprilgan.data.references import resolve_references
from anomalib_aprilgan.target import CHECKPOINT, References, TargetRequest, read_record
from conftest import GOLDEN, GOLDEN_SIZE

GOOD = GOLDEN / "dataset" / "bolt" / "train" / "good"
REQUEST = TargetRequest(k_shot=2, source=GOOD)


@pytest.fixture
def model(tiny_arguments: dict) -> AprilGanModel:
    return AprilGan(**tiny_arguments, visualizer=False).model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, GOLDEN_SIZE, GOLDEN_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shots", [0, 2])
def test_one_encoding_scored_for_two_targets_equals_two_models(
    model: AprilGanModel, images: Tensor, shots: int
) -> None:
    encoded = model.encode(images)
    assert isinstance(encoded, Encoded)
    for class_name, references in (("bolt", images[:shots] + 0.1), ("fabric", images[1 : 1 + shots])):
        target = model.make_target(class_name, references if shots else None)
        scores, anomaly_maps = model.score(encoded, target)
        model.setup(class_name, references if shots else None)
        expected = model(images)
        assert torch.equal(scores, expected.pred_score)
        assert torch.equal(anomaly_maps, expected.anomaly_map)


def test_scoring_does_not_call_the_encoder(
    model: AprilGanModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.setup("bolt", images)
    encoded = model.encode(images)
    monkeypatch.setattr(model.encoder, "forward", lambda _images: pytest.fail("encoded again"))
    model.score(encoded)
    model.score(encoded, model.target)


def test_targets_are_frozen_and_equal_by_what_they_look_for(model: AprilGanModel, images: Tensor) -> None:
    one, same = model.make_target("bolt", images[:2]), model.make_target("bolt", images[:2].clone())
    assert one == same
    assert one != model.make_target("bolt", images[1:])
    assert one != model.make_target("fabric", images[:2])
    with pytest.raises(FrozenInstanceError):
        one.class_name = "fabric"


def test_references_are_what_their_files_contain(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(GOOD, copy)
    here = resolve_references(REQUEST, None)
    assert here == resolve_references(replace(REQUEST, source=str(copy)), None)
    assert here != resolve_references(replace(REQUEST, seed=1), None)
    assert here != resolve_references(replace(REQUEST, coreset_sampling_ratio=0.5), None)
    for path in copy.iterdir():
        path.write_bytes((GOLDEN / "dataset" / "fabric" / "train" / "good" / path.name).read_bytes())
    assert here != resolve_references(replace(REQUEST, source=str(copy)), None)


def test_hidden_files_are_no_references(tmp_path: Path) -> None:
    shutil.copytree(GOOD, tmp_path / "good")
    shutil.copytree(GOOD, tmp_path / "good" / ".ipynb_checkpoints")
    references = resolve_references(TargetRequest(k_shot=4, source=tmp_path / "good"), None)
    assert len(set(references.paths)) == 4
    assert not any("checkpoints" in path for path in references.paths)
    with pytest.raises(ValueError, match="number of normal reference images, 4"):
        resolve_references(TargetRequest(k_shot=5, source=tmp_path / "good"), None)


def test_known_references_are_kept_where_nothing_else_is_named(tmp_path: Path) -> None:
    shutil.copytree(GOOD, tmp_path / "good")
    known = resolve_references(replace(REQUEST, source=tmp_path / "good"), None)
    assert resolve_references(replace(REQUEST, source=None), None, known) is known
    shutil.rmtree(tmp_path / "good")
    assert resolve_references(replace(REQUEST, source=tmp_path / "good"), None, known) is known
    with pytest.raises(ValueError, match="does not exist"):
        resolve_references(replace(REQUEST, source=tmp_path / "good"), None)
    with pytest.raises(ValueError, match="there are no reference images: give `few_shot_source`"):
        resolve_references(TargetRequest(k_shot=1), None, known)


def test_a_record_is_plain_and_read_back(model: AprilGanModel, images: Tensor) -> None:
    references = resolve_references(REQUEST, None)
    target = model.make_target("bolt", images[:2], references)
    class_name, read, origin = read_record(target.record())
    assert (class_name, read, origin) == ("bolt", references, CHECKPOINT)
    assert (read.paths, read.source, read.seed) == (references.paths, str(GOOD), 0)
    assert {type(value) for value in target.record()["references"].values()} <= {list, str, float, int, bool}


@pytest.mark.parametrize(
    ("class_name", "broken"), [("fabric", True), ("word " * 100, False)], ids=["reference", "class name"]
)
def test_a_target_is_set_whole_or_not_at_all(
    model: AprilGanModel, images: Tensor, class_name: str, broken: bool
) -> None:
    model.setup("bolt", images[:2])
    before, expected = model.target, model(images)
    references = images[1:].clone()
    if broken:
        references[1] = torch.nan
    with pytest.raises(ValueError, match=r"finite|shorten"):
        model.setup(class_name, references)
    assert model.target == before
    assert torch.equal(model(images).pred_score, expected.pred_score)
    assert torch.equal(model(images).anomaly_map, expected.anomaly_map)


def test_no_references_are_equal_to_none() -> None:
    assert resolve_references(TargetRequest(), None) == References()


@pytest.mark.parametrize(("maxima", "bounds"), [([2.0, 3.0], [2.0, 3.0]), ([2.0, 2.01], None), (None, None)])
def test_bounds_of_a_narrow_range_or_of_none_do_not_scale_scores(
    model: AprilGanModel, images: Tensor, maxima: list[float] | None, bounds: list[float] | None
) -> None:
    model.setup("bolt", images)
    model.set_score_bounds(torch.tensor([1.0, 4.0]))
    model.set_score_bounds(None if maxima is None else torch.tensor(maxima))
    assert model.score_bounds.isnan().all() if bounds is None else model.score_bounds.tolist() == bounds
