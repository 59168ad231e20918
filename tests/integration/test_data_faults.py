# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Images and masks as they should not be: rotated by EXIF, deep, damaged, missing, misnamed, twice."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from PIL import Image, ImageOps

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.comparison.datasets import prepare_categories
from anomalib_aprilgan.comparison.grid import DataSpec
from anomalib_aprilgan.data.images import check_image, decode, read_image, read_rgb
from bad_files import IMAGE, save_turned
from conftest import BOLT, Engines, Models

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")


def pixels(tensor: torch.Tensor) -> np.ndarray:
    return (tensor * 255).round().byte().permute(1, 2, 0).numpy()


# --- images ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (3, 50)])
def test_every_mode_and_size_is_read_as_pillow_converts_it(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "image.tif"
    with Image.open(IMAGE) as image:
        image.convert("RGB").resize(size).convert(mode).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(read_rgb(path)), np.asarray(image.convert("RGB")))
    assert check_image(path) == size
    torch.testing.assert_close(read_image(path), read_rgb(path), atol=1e-6, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_obeyed(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "image.png"
    save_turned(path, orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert decode(path)[1] is (orientation != 1)
    for read in (read_rgb, read_image):
        np.testing.assert_array_equal(pixels(read(path)), expected)
    assert check_image(path) == expected.shape[1::-1]


def test_a_turned_image_scores_as_one_that_is_stored_upright(
    make_model: Models, engine: Engines, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    save_turned(folder / "turned.png", 6)
    with Image.open(folder / "turned.png") as image:
        upright = ImageOps.exif_transpose(image)
    upright.save(folder / "upright.png", exif=b"")
    turned, stored = engine(tmp_path).predict(make_model(class_name="bolt", visualizer=True), data_path=folder)
    assert torch.equal(turned.pred_score, stored.pred_score)
    assert torch.equal(turned.anomaly_map, stored.anomaly_map)
    pictures = [np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("images/**/*.png"))]
    np.testing.assert_array_equal(*pictures)


def test_32_bits_stop_a_test_instead_of_becoming_white(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    shutil.copytree(BOLT, tmp_path / "bolt")
    levels = np.asarray(Image.open(IMAGE).convert("L"), dtype=np.int32) * 1000
    Image.fromarray(levels).save(tmp_path / "bolt/test/good/deep.tif")
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
    data = Folder("parts", root=tmp_path / "bolt", **folders, num_workers=0)
    with pytest.raises(ValueError, match=r"deep\.tif' can't be read .*32 bits per pixel"):
        engine().test(make_model(), datamodule=data)


# --- the auxiliary data ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(BOLT, tmp_path / "data" / "bolt")
    return tmp_path / "data"


def masks(root: Path) -> list[Path]:
    return sorted((root / "bolt" / "ground_truth").rglob("*.png"))


def auxiliary(data: Folder | MVTecAD) -> AuxiliaryDataModule:
    module = AuxiliaryDataModule(data, mosaic_probability=0.0, num_workers=0)
    module.setup("fit")
    return module


def mvtec(root: Path) -> MVTecAD:
    return MVTecAD(root, "bolt", num_workers=0)


def with_masks(root: Path) -> Folder:
    """The test images as a Folder, which asks nothing of the masks' names."""
    folders = {"normal_dir": "test/good", "abnormal_dir": "test/scratch", "mask_dir": "ground_truth/scratch"}
    return Folder("bolt", root=root / "bolt", **folders, num_workers=0)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])


def make_tall(path: Path) -> None:
    Image.new("L", (40, 90), 255).save(path)


MASK = "ground_truth/scratch/000_mask.png"
NO_MATCH = "category 'bolt' of MVTecAD can't be trained on. .*do not belong together: .* Without a mask: scratch/000"
CUT_OFF = r"1 of 9 training images can't be used; repair or remove them\. .*test/good/000\.png' can't be"
TALL = r"000_mask\.png is not of the shape of .*000\.png: it has 40 x 90 pixels, the image 96 x 96"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("test/good/000.png", cut_off, CUT_OFF),
        ("test/scratch/001.png", lambda path: path.write_text("-"), r"scratch/001\.png' can't be read as an image"),
        (MASK, cut_off, r"scratch/000_mask\.png' can't be read as an image"),
        (MASK, make_tall, TALL),
        (MASK, Path.unlink, NO_MATCH),
        (MASK, lambda path: path.rename(path.with_name("left.png")), NO_MATCH),
        ("ground_truth", shutil.rmtree, NO_MATCH),
    ],
    ids=["cut off", "text", "mask cut off", "tall mask", "missing mask", "misnamed mask", "no masks"],
)
def test_faults_stop_training_before_the_first_step(
    root: Path, make_model: Models, engine: Engines, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root / "bolt" / name)
    model = make_model(adapters=None)
    model.training_step = lambda *_: pytest.fail("a step was made")
    with pytest.raises(ValueError, match=message):
        engine(max_epochs=1).fit(model, datamodule=AuxiliaryDataModule(mvtec(root), num_workers=0))


def test_many_faults_are_counted_and_some_named(root: Path) -> None:
    for path in (root / "bolt/test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^9 of 9 training images .* And 4 more\.$"):
        auxiliary(mvtec(root))


@pytest.mark.parametrize("level", [1, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_every_value_of_a_mask_but_0_is_a_defect(root: Path, level: int, dtype: type) -> None:
    paths = masks(root)
    expected = [np.asarray(Image.open(path)) > 0 for path in paths]
    for path in paths:
        mask = np.where(np.asarray(Image.open(path)) > 0, level, 0).astype(dtype)
        path.unlink()
        Image.fromarray(mask).save(path.with_suffix(".tif"))
    found = {
        item.image_path: item.gt_mask.numpy() > 0 for item in auxiliary(with_masks(root)).train_data if item.gt_label
    }
    np.testing.assert_array_equal([found[path] for path in sorted(found)], expected)


def test_masks_with_loss_are_called_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in masks(root):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        auxiliary(with_masks(root))
    assert "5 masks are in files that change levels, such as JPEG" in caplog.text


def test_16_bit_images_are_trained_on_with_all_their_levels(root: Path) -> None:
    """anomalib's reader makes nearly all of them white."""
    path = root / "bolt/test/good/000.png"
    levels = np.asarray(Image.open(path).convert("L"))
    Image.fromarray(levels.astype(np.uint16) * 257).save(path)
    item = next(item for item in auxiliary(mvtec(root)).train_data if item.image_path == str(path))
    np.testing.assert_allclose(item.image[0] * 255, levels, atol=1e-3)


def test_a_file_twice_is_two_samples(root: Path) -> None:
    shutil.copy(root / "bolt/test/good/000.png", root / "bolt/test/good/copy.png")
    assert len(auxiliary(mvtec(root)).train_data) == 10


# --- references ---


def test_copies_of_a_reference_are_not_held_out_against_each_other(
    make_model: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An image compared with its own copy is at distance 0, which would make thresholds too low."""
    originals = sorted((BOLT / "train" / "good").iterdir())[:2]
    copies = [Path(shutil.copy(path, tmp_path / f"copy_of_{path.name}")) for path in originals]

    def threshold(*paths: Path) -> float:
        model = make_model(k_shot=len(paths), few_shot_source=[str(path) for path in paths], class_name="bolt")
        model.prepare()
        return float(model.post_processor.pixel_threshold)

    assert threshold(*originals, *copies) == pytest.approx(threshold(*originals), abs=1e-5)
    assert "compared with itself" not in caplog.text
    threshold(originals[0], copies[0])
    assert "A single reference is compared with itself" in caplog.text


# --- masks of a test ---


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BOLT, tmp_path / "data" / "bolt"))


@pytest.mark.parametrize("run", ["validate", "test"])
@pytest.mark.parametrize("change", [lambda mask: mask.rotate(90, expand=True), lambda mask: mask.resize((40, 90))])
def test_a_mask_of_another_shape_stops_a_test(
    make_model: Models, engine: Engines, parts: Path, run: str, change: Callable
) -> None:
    path = parts / "ground_truth" / "scratch" / "001_mask.png"
    change(Image.open(path).resize((96, 48))).save(path)
    with pytest.raises(ValueError, match=r"1 of 5 test images can't be used; .*001_mask\.png is not of the shape of"):
        getattr(engine(), run)(make_model(), datamodule=MVTecAD(parts.parent, "bolt", num_workers=0))


def test_jpeg_masks_are_named_in_a_test_and_give_the_same_metrics(
    make_model: Models, engine: Engines, parts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tested() -> list:
        options = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
        options["val_split_mode"] = "same_as_test"
        data = Folder("bolt", root=parts, mask_dir="ground_truth/scratch", num_workers=0, **options)
        return engine().test(make_model(), datamodule=data)

    expected = tested()
    for path in (parts / "ground_truth" / "scratch").iterdir():
        Image.open(path).convert("L").save(path.with_suffix(".jpg"))
        path.unlink()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        assert tested() == expected
    assert "5 masks are in files that change levels, such as JPEG" in caplog.text


def test_a_comparison_looks_at_all_files_before_it_trains(parts: Path) -> None:
    path = parts / "test" / "scratch" / "000.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    spec = DataSpec("anomalib.data.MVTecAD", {"root": str(parts.parent)})
    path.unlink()
    with pytest.raises(ValueError, match=r"The category 'bolt' of the data set 'parts' can't be used: .* leave it out"):
        prepare_categories(spec, "parts")


def test_a_comparison_names_images_that_other_models_misread(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = parts / "test" / "good" / "000.png"
    levels = np.asarray(Image.open(path).convert("L"))
    Image.fromarray(levels.astype(np.uint16) * 257).save(path)
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        prepare_categories(DataSpec("anomalib.data.MVTecAD", {"root": str(parts.parent)}), "parts")
    assert "changes 1 images of the category 'bolt' of 'parts', such as" in caplog.text
