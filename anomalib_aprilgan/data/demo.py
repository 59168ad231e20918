# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A small data set in MVTec AD's layout, made from the photographs that the scikit-image package carries."""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import skimage
from anomalib.data import MVTecAD
from PIL import Image

from anomalib_aprilgan.data.defects import DEFECTS, Array

logger = logging.getLogger(__name__)

# Category: photograph, and its pixels per pixel of an image.
PHOTOGRAPHS = {
    "brick": ("brick.png", 0.75),
    "coins": ("coins.png", 0.65),
    "grass": ("grass.png", 0.75),
    "gravel": ("gravel.png", 0.75),
    "moon": ("moon.png", 0.75),
    "page": ("page.png", 0.65),
    "retina": ("retina.jpg", 1.5),
    "stars": ("hubble_deep_field.jpg", 1.25),
    "tissue": ("ihc.png", 0.75),
}
CATEGORIES = sorted(PHOTOGRAPHS)
# Left, top, right and bottom of what is used of a photograph: the retina's is round, and black outside.
USED = {"retina.jpg": (184, 263, 1224, 1143)}
IMAGE_SIDE = 224
N_TRAIN, N_TEST_GOOD, N_TEST_DEFECTIVE = 20, 30, 30
VERSION = 2
MANIFEST = "aprilgan_demo.json"


class DemoDataModule(MVTecAD):
    """Nine surfaces, each with 20 normal training images, and 30 normal and 30 defective test images with masks.

    Images are random views, 224 x 224 pixels, of one photograph per category: its left half for training, its right
    half for testing. Defects are scratches, stains, holes and smears. Every run makes the same files.

    Args:
        root: Folder of the data set; made by ``prepare_data`` if it does not exist.
        category: One of CATEGORIES.
        train_batch_size: Images per batch in training.
        eval_batch_size: Images per batch in validation and testing.
        num_workers: Processes that load images.

    Raises:
        ValueError: If there is no such category, or the folder holds another version of the data set.
        FileExistsError: If the folder holds something else.

    Example:
        >>> from anomalib_aprilgan import DemoDataModule
        >>> data = DemoDataModule(category="coins")
        >>> data.prepare_data()  # makes ./datasets/aprilgan_demo
        >>> data.setup()
        >>> len(data.train_data), len(data.test_data)
        (20, 60)
        >>> data.test_data[0].image.shape
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        root: Path | str = "./datasets/aprilgan_demo",
        category: str = "brick",
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        if category not in CATEGORIES:
            msg = f"`category` {category!r} is not in the demo data: choose one of {CATEGORIES}."
            raise ValueError(msg)
        super().__init__(root, category, train_batch_size, eval_batch_size, num_workers)

    def prepare_data(self) -> None:
        """Make the data set if the folder does not exist.

        Raises:
            FileExistsError: If the folder holds something else.
            ValueError: If the folder holds another version of the data set.
        """
        if not self.root.exists():
            make_demo_data(self.root)
        _check_manifest(self.root)


def make_demo_data(root: str | Path) -> None:
    """Write the data set of all categories to the new folder ``root``. An error leaves no folder."""
    root = Path(root)
    logger.info("Making the demo data set in %s", root)
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        unfinished.chmod(0o755)
        for number, category in enumerate(CATEGORIES):
            _make_category(unfinished / category, category, np.random.default_rng([VERSION, number]))
        (unfinished / MANIFEST).write_text(json.dumps({"version": VERSION}))
        _move(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: Path, root: Path) -> None:
    try:
        os.rename(unfinished, root)
    except OSError:
        if not (root / MANIFEST).is_file():  # else another process was faster
            raise


def _check_manifest(root: Path) -> None:
    manifest = root / MANIFEST
    if not manifest.is_file():
        msg = f"{root} exists and is not the demo data set: choose another `root`."
        raise FileExistsError(msg)
    version = json.loads(manifest.read_text())["version"]
    if version != VERSION:
        msg = f"{root} holds version {version} of the demo data, not {VERSION}: delete it or choose another `root`."
        raise ValueError(msg)


def _make_category(folder: Path, category: str, rng: np.random.Generator) -> None:
    name, scale = PHOTOGRAPHS[category]
    photograph = _read_photograph(name)
    width, height = photograph.size
    left, right = photograph.crop((0, 0, width // 2, height)), photograph.crop((width // 2, 0, width, height))
    for index in range(N_TRAIN):
        _write(folder / "train" / "good" / f"{index:03}.png", _view(left, scale, rng))
    for index in range(N_TEST_GOOD):
        _write(folder / "test" / "good" / f"{index:03}.png", _view(right, scale, rng))
    kinds = sorted(DEFECTS)
    for index in range(N_TEST_DEFECTIVE):
        kind = kinds[index % len(kinds)]
        image, coverage = DEFECTS[kind](_view(right, scale, rng), rng)
        _write(folder / "test" / kind / f"{index:03}.png", image)
        _write(folder / "ground_truth" / kind / f"{index:03}_mask.png", (coverage > 0.3).astype(float))


def _read_photograph(name: str) -> Image.Image:
    """A photograph in scikit-image's package as RGB; its own loaders would download what is missing."""
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return image.convert("RGB").crop(USED.get(name, (0, 0, *image.size)))


def _view(photograph: Image.Image, scale: float, rng: np.random.Generator) -> Array:
    """A part of the photograph (H, W, 3) under another angle and light, with noise."""
    zoom, angle = scale * rng.uniform(0.92, 1.08), rng.uniform(-0.08, 0.08)
    reach = IMAGE_SIDE * zoom * (np.cos(angle) + np.sin(abs(angle))) / 2
    width, height = photograph.size
    center = [rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)]
    view = _crop(photograph, center, zoom, angle)
    slope = np.linspace(-1, 1, IMAGE_SIDE)
    light = 1 + rng.uniform(-0.06, 0.06) + rng.uniform(-0.05, 0.05) * slope + rng.uniform(-0.05, 0.05) * slope[:, None]
    return np.clip(view * light[..., None] + rng.normal(0, 0.01, view.shape), 0, 1)


def _crop(photograph: Image.Image, center: list[float], zoom: float, angle: float) -> Array:
    """The image (H, W, 3) in [0, 1] around a point of the photograph, rotated by an angle in radians."""
    along, across = zoom * np.cos(angle), zoom * np.sin(angle)
    half = IMAGE_SIDE / 2
    left, top = center[0] - half * (along - across), center[1] - half * (along + across)
    coefficients = (along, -across, left, across, along, top)
    size = (IMAGE_SIDE, IMAGE_SIDE)
    view = photograph.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(view) / 255


def _write(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().astype(np.uint8)).save(path, compress_level=1)
