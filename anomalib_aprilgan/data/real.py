# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Real data from the package registry: solar cells and textiles, offline once the extra ``realdata`` is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from anomalib_aprilgan.data.parts import COLUMNS, GOOD, TableDataModule

EXTRA = 'pip install "anomalib-aprilgan[realdata]"'


class ElpvDataModule(TableDataModule):
    """Photographs of solar cells in electroluminescence (ELPV data set), 300 x 300 pixels, without masks.

    Source: Buerhop-Lutz et al., "A benchmark for visual identification of defective solar cells in
    electroluminescence imagery", 2018; CC BY-NC-SA 4.0. Experts gave each cell a probability of being defective: 0 is
    normal here, 1 is defective, and the unsure ones are left out.

    Args:
        category: "mono" or "poly": mono- or polycrystalline cells.
        uncertain: Also use the probabilities 1/3, as normal, and 2/3, as defective.
        n_test: Normal and defective test images, drawn at random; the other normal ones are for training.
        split_seed: Of this draw.
        train_batch_size: Images per batch in training.
        eval_batch_size: Images per batch in validation and testing.
        num_workers: Processes that load images.

    Raises:
        ModuleNotFoundError: If the package ``elpv-dataset`` is not installed.
        ValueError: If there is no such category or too few images.
    """

    categories = ("mono", "poly")
    class_name = "solar cell"

    def __init__(
        self,
        category: str = "mono",
        uncertain: bool = False,
        n_test: int = 50,
        split_seed: int = 0,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        if category not in self.categories:
            msg = f"`category` {category!r} is not in ELPV: choose one of {list(self.categories)}."
            raise ValueError(msg)
        self.root = _package_folder("elpv_dataset", "elpv-dataset") / "data"
        self.uncertain, self.n_test, self.split_seed = uncertain, n_test, split_seed
        super().__init__(category, train_batch_size, eval_batch_size, num_workers)

    def table(self) -> pd.DataFrame:
        """The chosen images of the category."""
        names = ["file", "probability", "kind"]
        listed = pd.read_csv(self.root / "labels.csv", sep=r"\s+", names=names)
        listed = listed[listed.kind == self.category]
        sure = listed.probability.isin([0.0, 1.0])
        listed = listed if self.uncertain else listed[sure]
        defective = listed.probability > 0.5
        groups = {GOOD: listed.file[~defective], "defective": listed.file[defective]}
        paths = {label: [str(self.root / file) for file in sorted(files)] for label, files in groups.items()}
        return draw_test_images(paths, self.n_test, self.split_seed)


class TextileDataModule(TableDataModule):
    """Simulated images of textile with local and global defects, without masks (package ``conformal-clip-data``, MIT).

    Args:
        category: "textile".
        n_test: Test images of each kind, drawn at random; the other normal ones are for training.
        split_seed: Of this draw.
        train_batch_size: Images per batch in training.
        eval_batch_size: Images per batch in validation and testing.
        num_workers: Processes that load images.

    Raises:
        ModuleNotFoundError: If the package ``conformal-clip-data`` is not installed.
        ValueError: If there is no such category or too few images.
    """

    categories = ("textile",)

    def __init__(
        self,
        category: str = "textile",
        n_test: int = 50,
        split_seed: int = 0,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        if category not in self.categories:
            msg = f"`category` {category!r} is not in the textile data: choose one of {list(self.categories)}."
            raise ValueError(msg)
        package = _package_folder("conformal_clip_data", "conformal-clip-data")
        self.root = package / "data" / "textile_images" / "simulated"
        self.n_test, self.split_seed = n_test, split_seed
        super().__init__(category, train_batch_size, eval_batch_size, num_workers)

    def table(self) -> pd.DataFrame:
        """The chosen images."""
        folders = {GOOD: "nominal", "local": "local", "global": "global"}
        paths = {label: sorted(map(str, (self.root / name).glob("*.jpg"))) for label, name in folders.items()}
        return draw_test_images(paths, self.n_test, self.split_seed)


def draw_test_images(paths: Mapping[str, Sequence[str]], n_test: int, seed: int) -> pd.DataFrame:
    """A table of samples: ``n_test`` test images of each label, and the other normal ones for training.

    Args:
        paths: Images of each label, sorted.
        n_test: Number of test images of each label.
        seed: Of the draw.

    Raises:
        ValueError: If a label has too few images.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for label, files in paths.items():
        if not 0 < n_test <= len(files) - (label == GOOD):
            msg = f"`n_test` must be from 1 up to fewer than the {len(files)} images labelled {label!r}, got {n_test}."
            raise ValueError(msg)
        order = [files[index] for index in rng.permutation(len(files))]
        rows += [("test", label, path, "") for path in order[:n_test]]
        rows += [("train", label, path, "") for path in order[n_test:] if label == GOOD]
    return pd.DataFrame(rows, columns=COLUMNS)


def _package_folder(module: str, package: str) -> Path:
    """Folder of an installed package, which is not imported: only its files are wanted."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        msg = f"The package {package!r} with the images is not installed: {EXTRA}"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent
