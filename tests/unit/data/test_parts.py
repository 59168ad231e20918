# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Own parts in MVTec AD's layout, and the real data of packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from anomalib_aprilgan import ElpvDataModule, PartsDataModule, TextileDataModule
from anomalib_aprilgan.data import real
from conftest import BOLT, Engines, Models, golden_data


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The goldens' bolts as a user has them: other formats and suffixes, and files that are no parts."""
    root = tmp_path / "parts"
    for number, path in enumerate(sorted(BOLT.rglob("*.png"))):
        target = root / "bolt" / path.relative_to(BOLT)
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".png" if "ground_truth" in path.parts else [".BMP", ".Tif", ".webp", ".PNG"][number % 4]
        with Image.open(path) as image:
            image.save(target.with_suffix(suffix), **({"lossless": True} if suffix == ".webp" else {}))
    (root / "bolt" / "test" / "good" / "._000.png").write_bytes(b"macOS")
    (root / "bolt" / "notes.txt").write_text("no image")
    (root / "drawings").mkdir()
    return root


def test_formats_change_nothing(parts: Path, engine: Engines, make_model: Models) -> None:
    data = PartsDataModule(parts, num_workers=0)
    assert data.category == "bolt"
    (row,) = engine().test(make_model(), datamodule=data, verbose=False)
    (expected,) = engine().test(make_model(), datamodule=golden_data(), verbose=False)
    assert row == expected
    assert "pixel_AUROC" in row


def test_without_masks_there_are_image_metrics(parts: Path, engine: Engines, make_model: Models) -> None:
    shutil.rmtree(parts / "bolt" / "ground_truth")
    one = PartsDataModule(parts / "bolt", num_workers=0)  # the folder of the only part
    assert (one.root, one.category) == (parts.resolve(), "bolt")
    (row,) = engine().test(make_model(), datamodule=one, verbose=False)
    assert {name.split("_")[0] for name in row} == {"image"}


def test_faults_are_named(parts: Path, tmp_path: Path) -> None:
    masks = sorted((parts / "bolt" / "ground_truth").rglob("*.png"))
    shutil.copy(masks[0], masks[0].with_name(masks[0].stem.removesuffix("_mask") + ".tif"))
    with pytest.raises(ValueError, match=r"two .* of one name"):
        PartsDataModule(parts).setup()
    masks[0].with_name(masks[0].stem.removesuffix("_mask") + ".tif").unlink()
    masks[0].unlink()
    with pytest.raises(ValueError, match=r"1 of 5 defective images have no mask .*ground_truth"):
        PartsDataModule(parts).setup()
    shutil.rmtree(parts / "bolt" / "test" / "good")
    with pytest.raises(FileNotFoundError, match=r"`category` 'nut' is not .* which has \['bolt'\]"):
        PartsDataModule(parts, "nut")
    with pytest.raises(FileNotFoundError, match=r"`root` .* is not a folder"):
        PartsDataModule(tmp_path / "nowhere")
    shutil.rmtree(parts / "bolt" / "test")
    with pytest.raises(FileNotFoundError, match="test' has no images"):
        PartsDataModule(parts, "bolt").setup()


@pytest.mark.parametrize(
    ("data", "n_train", "n_test"),
    [
        (lambda: ElpvDataModule("mono"), 538, {"good": 50, "defective": 50}),
        (lambda: ElpvDataModule("poly"), 870, {"good": 50, "defective": 50}),
        (lambda: ElpvDataModule("mono", uncertain=True, n_test=60), 645, {"good": 60, "defective": 60}),
        (lambda: TextileDataModule(n_test=10), 990, {"good": 10, "local": 10, "global": 10}),
    ],
)
def test_real_data(data: type, n_train: int, n_test: dict[str, int]) -> None:
    one, again = data(), data()
    one.setup()
    again.setup()
    train, test = one.train_data.samples, one.test_data.samples
    assert len(train) == n_train
    assert set(train.label) == {"good"}
    assert test.label.value_counts().to_dict() == n_test
    assert not set(train.image_path) & set(test.image_path)
    assert list(test.image_path) == list(again.test_data.samples.image_path)
    assert (one.test_data[0].image.ndim, one.test_data[0].gt_mask) == (3, None)


def test_the_class_name_is_a_word_for_the_object(engine: Engines, make_model: Models) -> None:
    model = make_model(evaluator=False)
    engine(limit_predict_batches=1).predict(model, datamodule=ElpvDataModule("poly", eval_batch_size=1))
    assert model.model.class_name == "solar cell"


@pytest.mark.parametrize("kind", [ElpvDataModule, TextileDataModule])
def test_errors_of_real_data(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'wood' is not in .* choose one of"):
        kind("wood")
    with pytest.raises(ValueError, match="`n_test` must be from 1 up to fewer than"):
        kind(n_test=5000).setup()
    monkeypatch.setattr(real, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[realdata\]"):
        kind()
