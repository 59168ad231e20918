# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What counts as an image by its name, and what is named as left out."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from anomalib.data import Folder, MVTecAD
from anomalib.data.datasets.image import mvtecad
from PIL import Image

from anomalib_aprilgan.compat.datasets import VALIDATE
from anomalib_aprilgan.data.auxiliary import category_names
from anomalib_aprilgan.data.listing import image_files, is_hidden
from anomalib_aprilgan.data.masks import check_datamodule
from anomalib_aprilgan.data.references import folder_images
from bad_files import IMAGE
from conftest import BOLT, Models


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("root/good/1.png", False),
        ("root/.ipynb_checkpoints/1-checkpoint.png", True),
        ("root/good/._1.png", True),
        ("root/__MACOSX/good/1.png", True),
        ("root/good/1.png~", True),
        ("root/@eaDir/1.png/small.jpg", True),
    ],
)
@pytest.mark.parametrize("above", [".", ".cache"])
def test_files_that_others_keep_are_hidden_wherever_the_root_lies(
    tmp_path: Path, path: str, hidden: bool, above: str
) -> None:
    assert is_hidden(tmp_path / above / path, tmp_path / above / "root") == hidden


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder.resolve())) for path in image_files(folder)]


def copies(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(IMAGE, folder / path)


def test_what_pillow_reads_is_listed(tmp_path: Path) -> None:
    avif = ["avif"] if ".avif" in Image.registered_extensions() else []  # from Pillow 11.3 on
    files = [f"a.{suffix}" for suffix in (*avif, "PNG", "bmp", "gif", "jfif", "jp2", "jpeg", "pgm", "tif", "webp")]
    copies(tmp_path, *files, "Größe/日本/ü.png", "x" * 200 + "/" + "y" * 200 + "/" + "z" * 200 + "/1.png")
    assert names(tmp_path) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert image_files(tmp_path / "a.gif") == [tmp_path / "a.gif"]


def test_linked_folders_are_listed_once(tmp_path: Path) -> None:
    copies(tmp_path, "parts/own.png", "parts/day1/0.png", "store/0.png", "store/deep/1.png")
    for link, target in (("a", "store"), ("b", "store"), ("again", "parts/day1"), ("up", "."), ("self", "parts")):
        (tmp_path / "parts" / link).symlink_to(tmp_path / target)
    (tmp_path / "store" / "circle").symlink_to(tmp_path / "store")
    (tmp_path / "parts" / "file.png").symlink_to(tmp_path / "store" / "0.png")
    assert names(tmp_path / "parts") == ["a/0.png", "a/deep/1.png", "day1/0.png", "file.png", "own.png"]


def test_what_is_left_out_is_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copies(tmp_path, "1.png", "._1.png", ".ipynb_checkpoints/1.png", "Thumbs.db", ".DS_Store", "1.png~", "a/notes.txt")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        assert names(tmp_path) == ["1.png"]
    (line,) = caplog.messages
    assert line.endswith(
        "'a/notes.txt' (not named as an image), 'gone.png' (a broken link), 'pipe.png' (a pipe or device)"
    )


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("none", FileNotFoundError, r"Path does not exist: '.*none'"),
        ("a", ValueError, r"Found 0 images in '.*a'\. 'notes\.txt' \(not named as an image\)"),
        ("a/notes.txt", ValueError, r"Found 0 images in '.*notes\.txt'"),
    ],
)
def test_nothing_to_list(tmp_path: Path, path: str, error: type, message: str) -> None:
    copies(tmp_path, "a/notes.txt", "a/._1.png")
    with pytest.raises(error, match=message):
        image_files(tmp_path / path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["good/1.png", "bad/1.png", "masks/1.png"], "bad, masks"),
        (
            ["train/good/1.png", "test/good/1.png", "test/hole/1.png", "ground_truth/hole/1.png"],
            "ground_truth, test, test/hole",
        ),
        (["Data/Images/Normal/1.png", "Data/Images/Anomaly/1.png"], "Data/Images/Anomaly"),
        (["ok/1.png", "Not OK/1.png"], "Not OK"),
        (["1.png", "logical_anomalies/1.png"], "logical_anomalies"),
        (["1.png", "1_label.bmp"], "1_label"),
    ],
)
def test_references_are_not_drawn_from_a_whole_data_set(tmp_path: Path, files: list[str], found: str) -> None:
    copies(tmp_path, *files)
    with pytest.raises(ValueError, match=f"seems to hold defects or masks: {found}\\. Give the folder in it"):
        folder_images(tmp_path)


@pytest.mark.parametrize(
    "files",
    [["1.png", "day 2/1.png"], ["good/day1/1.png", "good/day2/2.png"], ["ok_1/1.png", "ok_2/1.png"], ["a_label.png"]],
)
def test_references_may_lie_in_several_folders(tmp_path: Path, files: list[str]) -> None:
    copies(tmp_path / "bad name", *files)
    assert len(folder_images(tmp_path / "bad name")) == len(files)


def mvtec(root: Path) -> MVTecAD:
    return MVTecAD(root.parent, "bolt", num_workers=0)


def folder(root: Path) -> Folder:
    return Folder("bolt", "train/good", root, "test/scratch", "test/good", "ground_truth/scratch", num_workers=0)


def everything(data: Folder | MVTecAD, root: Path) -> set[Path]:
    tables = [getattr(data, f"{name}_data").samples for name in ("train", "val", "test")]
    return {Path(path).relative_to(root) for table in tables for path in table.image_path}


def test_hidden_files_of_data_modules_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mvtecad, "validate_path", VALIDATE[mvtecad])  # as a data set that anomalib does not list
    root = Path(shutil.copytree(BOLT, tmp_path / "bolt"))
    copies(root, "train/good/._000.png", "test/good/._000.png", "test/good/extra.gif")
    data = mvtec(root)
    data.setup()
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        check_datamodule(data)
    assert everything(data, root) == {path.relative_to(BOLT) for path in BOLT.glob("t*/*/*.png")}
    assert data.test_data.task == "segmentation"
    assert "hidden files, such as" in caplog.text
    assert "extra.gif' (not listed): convert images" in caplog.text


def test_folder_lists_as_prediction_does(tmp_path: Path, make_model: Models) -> None:
    make_model()  # from now on
    root = Path(shutil.copytree(BOLT, tmp_path / "Schräube"))
    copies(root, "train/good/.ipynb_checkpoints/000.png", "test/scratch/._000.png", "test/good/extra.gif")
    copies(tmp_path, "store/linked.png")
    (root / "train/good/more").symlink_to(tmp_path / "store")
    data = folder(root)
    data.setup()
    ours = {Path("test/good/extra.gif"), Path("train/good/more/linked.png")}
    assert everything(data, root) == {path.relative_to(BOLT) for path in BOLT.glob("t*/*/*.png")} | ours
    (root / "test/scratch/more.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(
        ValueError, match=r"more\.png' is a broken link, pipe or device: remove it, and its image or mask"
    ):
        folder(root).setup()
    with pytest.raises(ValueError, match=r"Found 0 images in .* with extensions \('\.jpg',\)"):
        Folder("bolt", "train/good", root, extensions=(".jpg",)).setup()


def test_hidden_folders_are_no_categories(tmp_path: Path) -> None:
    copies(tmp_path, *(f"{name}/test/good/0.png" for name in (".ipynb_checkpoints", "__MACOSX", "bolt")))
    assert category_names(mvtec(tmp_path / "bolt")) == ["bolt"]
