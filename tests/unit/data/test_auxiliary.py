# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The auxiliary data set: whole test splits, masks that follow their images, mosaics, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.transforms.v2 import Compose, Resize

from anomalib_aprilgan import AuxiliaryDataModule
from anomalib_aprilgan.data import CategoryItem
from anomalib_aprilgan.data.auxiliary import category_names
from anomalib_aprilgan.data.auxiliary_dataset import AuxiliaryDataset
from conftest import GOLDEN

DATASET = GOLDEN / "dataset"


def mvtec(root: Path = DATASET, category: str = "fabric", **options: object) -> MVTecAD:
    return MVTecAD(root=root, category=category, num_workers=0, eval_batch_size=4, **options)


def make(auxiliary: object = None, **options: object) -> AuxiliaryDataModule:
    datamodule = AuxiliaryDataModule(auxiliary or mvtec(), num_workers=0, train_batch_size=4, **options)
    datamodule.setup()
    return datamodule


def painted(root: Path, category: str, colour: int) -> None:
    """A category of 64 x 64 images in one colour, whose defect is a white square with an exact mask."""
    for index in range(6):
        image = np.full((64, 64, 3), colour + index, np.uint8)
        write(root / category / "train/good" / f"{index}.png", image)
        write(root / category / "test/good" / f"{index}.png", image)
        mask = np.zeros((64, 64), np.uint8)
        mask[8 * index : 8 * index + 8, 16:32] = 255
        write(root / category / "ground_truth/spot" / f"{index}_mask.png", mask)
        write(root / category / "test/spot" / f"{index}.png", np.where(mask[..., None] > 0, 255, image))


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(path)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    for category, colour in (("dark", 20), ("light", 120)):
        painted(tmp_path / "squares", category, colour)
    return tmp_path / "squares"


@pytest.mark.parametrize("val_split", ["same_as_test", "from_test", "none"])
def test_the_whole_test_split_of_every_category_is_used(val_split: str) -> None:
    datamodule = make(mvtec(val_split_mode=val_split))
    expected = {str(path) for path in DATASET.glob("*/test/*/*.png")}
    assert set(datamodule.train_data.samples.image_path) == expected
    assert datamodule.train_categories == ["bolt", "fabric"]


def test_chosen_categories_and_the_target_of_the_same_data_set() -> None:
    datamodule = make(target=mvtec(category="bolt"), categories=["fabric"])
    assert datamodule.train_categories == ["fabric"]
    assert (datamodule.category, datamodule.name) == ("bolt", "MVTecAD-to-MVTecAD")
    tested = {path for batch in datamodule.test_dataloader() for path in batch.image_path}
    assert tested == {str(path) for path in DATASET.glob("bolt/test/*/*.png")}
    validated = {path for batch in datamodule.val_dataloader() for path in batch.image_path}
    assert validated == tested
    assert len(datamodule.predict_dataloader()) > 0


def test_without_a_target_there_is_nothing_to_test() -> None:
    datamodule = make()
    assert datamodule.name == "MVTecAD"
    assert [datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()] == [[], [], []]


def test_folder_is_one_category_of_its_name() -> None:
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/scratch"}
    folder = Folder("metal bolt", root=DATASET / "bolt", mask_dir="ground_truth/scratch", num_workers=0, **folders)
    datamodule = make(folder)
    assert datamodule.train_categories == ["metal bolt"]
    assert set(datamodule.train_data.samples.label_index) == {0, 1}


def test_an_image_has_its_mask_label_and_category() -> None:
    datamodule = make(mosaic_probability=0.0)
    item = next(item for item in datamodule.train_data if item.gt_label == 1)
    path = Path(item.image_path)
    mask = np.asarray(Image.open(DATASET / item.category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"))
    np.testing.assert_array_equal(item.gt_mask.numpy() > 0, mask > 0)
    np.testing.assert_allclose(
        item.image.permute(1, 2, 0) * 255, np.asarray(Image.open(path).convert("RGB")), atol=1e-4
    )
    batch = datamodule.train_data.collate_fn(
        [CategoryItem(image=torch.zeros(3, 4, 4), gt_mask=torch.zeros(4, 4), category=name) for name in ("a", "b")]
    )
    assert batch.category == ["a", "b"]


@pytest.mark.parametrize("size", [64, 40])
def test_masks_follow_their_images(squares: Path, size: int) -> None:
    """White pixels are the defects, also in mosaics and after a transform."""
    datamodule = make(mvtec(squares, "dark"), mosaic_probability=1.0)
    datamodule.train_data.augmentations = Compose([Resize([size, size], antialias=True)])
    for item in datamodule.train_data:
        white = item.image.amin(dim=0) > 0.95
        border = (item.image.amin(dim=0) > 0.12) & ~white  # mixed by resizing; the ground is below 0.1
        assert item.gt_mask.shape == (size, size)
        assert torch.equal((item.gt_mask > 0)[~border], white[~border])
        assert item.gt_label == item.gt_mask.any()


def test_mosaics_join_images_of_one_category(squares: Path) -> None:
    for item in make(mvtec(squares, "dark"), mosaic_probability=1.0).train_data:
        colours = item.image[(item.image < 0.9) & (item.image > 0)] * 255
        low, high = (20, 26) if item.category == "dark" else (120, 126)
        assert low - 1 <= colours.min()
        assert colours.max() <= high


def test_share_of_mosaics(squares: Path) -> None:
    data = make(mvtec(squares, "dark"), mosaic_probability=0.2).train_data
    sides = [data[number].image.shape[-1] for number in range(20 * len(data))]
    assert set(sides) == {64, 128}
    assert 0.14 < np.mean([side == 128 for side in sides]) < 0.26  # 3 sigma of 480 draws


def batches(datamodule: AuxiliaryDataModule) -> list[tuple[list[str], torch.Tensor]]:
    datamodule.train_data.augmentations = Compose([Resize([32, 32], antialias=True)])
    return [(batch.image_path, batch.image) for batch in datamodule.train_dataloader()]


def seeded(seed: int, workers: int = 0) -> AuxiliaryDataModule:
    options = {"mosaic_probability": 0.5, "train_batch_size": 4, "num_workers": workers, "seed": seed}
    datamodule = AuxiliaryDataModule(mvtec(), **options)
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_batches(workers: int) -> None:
    one, two = batches(seeded(3)), batches(seeded(3, workers))
    assert [paths for paths, _ in one] == [paths for paths, _ in two]
    assert all(torch.equal(first, second) for (_, first), (_, second) in zip(one, two, strict=True))
    assert [paths for paths, _ in one] != [paths for paths, _ in batches(seeded(4))]


def test_epochs_differ_and_do_not_depend_on_those_before() -> None:
    datamodule = seeded(3)
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(1)
    second = [batch.image_path for batch in loader]
    assert sorted(path for paths in second for path in paths) == sorted(datamodule.train_data.samples.image_path)
    assert second != [paths for paths, _ in batches(seeded(3))]
    resumed = seeded(3)
    resumed.load_state_dict({"next_epoch": 1})
    assert second == [paths for paths, _ in batches(resumed)]
    sides = [[datamodule.train_data[index + epoch * 18].image.shape[-1] for index in range(18)] for epoch in (0, 1)]
    assert sides[0] != sides[1]


def test_config_builds_it() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AuxiliaryDataModule, "data")
    module = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(DATASET), "category": "bolt"}}
    arguments = {"auxiliary": module, "target": module, "categories": ["fabric"]}
    config = parser.parse_object(
        {"data": {"class_path": "anomalib_aprilgan.AuxiliaryDataModule", "init_args": arguments}}
    )
    datamodule = parser.instantiate_classes(config).data
    assert isinstance(datamodule.auxiliary, MVTecAD)
    assert datamodule.categories == ["fabric"]


def test_empty_category_folders_do_not_count(squares: Path) -> None:
    (squares / "empty/test/good").mkdir(parents=True)
    assert category_names(mvtec(squares, "dark")) == ["dark", "light"]


def without_masks(root: Path) -> Callable[[], object]:
    shutil.rmtree(root / "dark/ground_truth")
    return lambda: make(Folder("dark", root=root / "dark", normal_dir="test/good", abnormal_dir="test/spot"))


def without_defects(root: Path) -> Callable[[], object]:
    return lambda: make(Folder("dark", root=root / "dark", normal_dir="train/good", normal_test_dir="test/good"))


def target_among_them(root: Path) -> Callable[[], object]:
    return lambda: make(mvtec(root, "dark"), target=mvtec(root, "light"))


def unknown_category(root: Path) -> Callable[[], object]:
    return lambda: make(mvtec(root, "dark"), categories=["dark", "green"])


def no_category(root: Path) -> Callable[[], object]:
    return lambda: make(mvtec(root, "dark"), categories=[])


def bad_probability(root: Path) -> Callable[[], object]:
    return lambda: make(mvtec(root, "dark"), mosaic_probability=1.5)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (without_masks, r"6 defective images have none, such as .*test/spot/0\.png\. Add masks"),
        (without_defects, "but there are no defective images"),
        (target_among_them, "The target category 'light' is among the auxiliary ones"),
        (unknown_category, r"\['green'\] are not in the auxiliary data set, which has \['dark', 'light'\]"),
        (no_category, r"\[\] are not in the auxiliary data set"),
        (bad_probability, "must be between 0 and 1, got 1.5"),
    ],
)
def test_refusals(squares: Path, case: Callable[[Path], Callable[[], object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case(squares)()


def test_default_category_need_not_be_on_disk(squares: Path) -> None:
    """anomalib would download the whole data set for its default category."""
    datamodule = AuxiliaryDataModule(MVTecAD(squares), num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.train_categories == ["dark", "light"]


def test_a_resumed_epoch_is_the_rest_of_it_and_the_next_one_whole() -> None:
    whole = [path for paths, _ in batches(seeded(3)) for path in paths]
    resumed = seeded(3)
    resumed.load_state_dict({"next_epoch": 0, "seen": 8})
    assert [path for paths, _ in batches(resumed) for path in paths] == whole[8:]
    assert [path for paths, _ in batches(resumed) for path in paths] == whole


def test_several_masks_of_an_image_are_one(squares: Path, tmp_path: Path) -> None:
    """MVTec LOCO's table has a list of masks for each image; its class fails with the strings of pandas 3."""
    datamodule = mvtec(squares, "dark")
    datamodule.setup()
    rows = datamodule.test_data.samples.assign(category="dark")
    masks, expected = [], {}
    for row in rows.itertuples():
        files = [tmp_path / f"{row.Index}_{number}.png" for number in range(2)]
        if row.label_index:
            whole = np.asarray(Image.open(row.mask_path))
            for number, file in enumerate(files):
                half = whole.copy()
                half[:, (slice(24), slice(24, None))[number]] = 0
                Image.fromarray(half).save(file)
            expected[row.image_path] = whole > 0
        masks.append(list(map(str, files)) if row.label_index else "")
    dataset = AuxiliaryDataset(rows.assign(mask_path=pd.Series(masks, dtype=object)), mosaic_probability=0)
    dataset.check_files()
    found = {item.image_path: item.gt_mask.numpy() > 0 for item in dataset if item.gt_label}
    assert found.keys() == expected.keys()
    assert all((found[path] == expected[path]).all() for path in found)
