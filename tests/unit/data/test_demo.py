# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data: the same files every time, readable by anomalib, masks where the images were changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_aprilgan import DemoDataModule
from anomalib_aprilgan.data import demo
from anomalib_aprilgan.data.defects import DEFECTS


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_files_every_time(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CATEGORIES", ["coins", "gravel"])
    demo.make_demo_data(tmp_path / "again")
    assert digests(demo_root) == digests(tmp_path / "again")
    assert len(digests(demo_root)) == 1 + 2 * (20 + 30 + 30 + 30)


def test_anomalib_reads_it(demo_root: Path) -> None:
    datamodule = DemoDataModule(demo_root, "gravel")
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 20
    assert len(datamodule.test_data) == 60
    labels = [int(item.gt_label) for item in datamodule.test_data]
    assert sum(labels) == 30
    assert all(bool(item.gt_mask.any()) == bool(item.gt_label) for item in datamodule.test_data)


def test_every_image_is_another_one(demo_root: Path) -> None:
    images = {name: digest for name, digest in digests(demo_root).items() if "ground_truth" not in name}
    assert len(set(images.values())) == len(images)


@pytest.mark.parametrize("kind", sorted(DEFECTS))
@pytest.mark.parametrize("category", ["brick", "stars"])
def test_defects_change_the_image_under_the_mask(kind: str, category: str) -> None:
    rng = np.random.default_rng(5)
    photograph = demo._read_photograph(demo.PHOTOGRAPHS[category][0])
    for _ in range(4):
        before = demo._view(photograph, demo.PHOTOGRAPHS[category][1], rng)
        after, coverage = DEFECTS[kind](before, rng)
        change = np.abs(after - before).mean(axis=-1)
        assert change[coverage == 0].max() == 0
        assert change[coverage > 0.3].mean() > 0.02
        assert 0.0003 < (coverage > 0.3).mean() < 0.2
        assert after.min() >= 0
        assert after.max() <= 1


def test_unknown_category() -> None:
    with pytest.raises(ValueError, match=r"'sky' is not in the demo data: choose one of \['brick',"):
        DemoDataModule(category="sky")


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the demo data set: choose another `root`"):
        DemoDataModule(tmp_path).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_other_version(tmp_path: Path) -> None:
    (tmp_path / demo.MANIFEST).write_text(json.dumps({"version": 0}))
    with pytest.raises(ValueError, match="holds version 0 of the demo data, not"):
        DemoDataModule(tmp_path).prepare_data()


def test_interrupted_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(path: Path, image: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).astype(np.uint8)).save(path)

    monkeypatch.setattr(demo, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.make_demo_data(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
