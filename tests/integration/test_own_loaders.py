# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Loaders that a user makes of anomalib's data sets: batches of several images, of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.data.datasets import FolderDataset
from lightning.pytorch import Callback, LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from bad_files import save_turned
from conftest import BOLT, Engines, Models

SIZES = [(96, 96), (200, 60), (40, 120), (96, 96)]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Images of several sizes with masks, two of which anomalib's reader changes: of 16 bits, and on its side."""
    for name in ("good", "bad", "masks"):
        (tmp_path / name).mkdir()
    for number, size in enumerate(SIZES):
        name = f"{number:03d}"
        Image.open(BOLT / f"test/good/{name}.png").resize(size).save(tmp_path / f"good/{name}.png")
        Image.open(BOLT / f"test/scratch/{name}.png").resize(size).save(tmp_path / f"bad/{name}.png")
        mask = Image.open(BOLT / f"ground_truth/scratch/{name}_mask.png").resize(size)
        mask.save(tmp_path / f"masks/{name}.png")
    levels = np.asarray(Image.open(tmp_path / "bad/000.png").convert("L"))
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "bad/000.png")
    save_turned(tmp_path / "bad/001.png", 6, (60, 40))
    Image.new("L", (40, 60), 255).save(tmp_path / "masks/001.png")
    return tmp_path


class Seen(Callback):
    """Keeps what the model is given."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[Tensor, Tensor | None]] = {}

    def on_test_batch_end(self, *args: object, **kwargs: object) -> None:
        batch = args[3]
        assert isinstance(batch, ImageBatch)
        masks = [None] * len(batch) if batch.gt_mask is None else batch.gt_mask
        self.items |= {
            path: (image, mask) for path, image, mask in zip(batch.image_path, batch.image, masks, strict=True)
        }

    on_validation_batch_end = on_predict_batch_end = on_test_batch_end


def datasets(run: str, root: Path) -> list:
    if run == "predict":
        return [PredictDataset(root / "good"), PredictDataset(root / "bad")]
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "normal_test_dir": "good", "mask_dir": "masks"}
    return [FolderDataset("parts", root=root, **folders, split="test")]


class OwnData(LightningDataModule):
    """A user's own data module, with what anomalib's Engine asks of one."""

    name, category = "own", ""

    def __init__(self, run: str, loaders: Callable[[], list[DataLoader]]) -> None:
        super().__init__()
        self.val_dataloader = list
        kind = {"validate": "val"}.get(run, run)
        setattr(self, f"{kind}_dataloader", loaders)


@pytest.mark.parametrize("run", ["predict", "test", "validate"])
@pytest.mark.parametrize("as_datamodule", [False, True])
def test_images_of_several_sizes_are_each_what_they_are_alone(
    make_model: Models, engine: Engines, parts: Path, run: str, as_datamodule: bool
) -> None:
    def seen(batch_size: int) -> dict[str, tuple[Tensor, Tensor | None]]:
        loaders = [DataLoader(data, batch_size, collate_fn=data.collate_fn) for data in datasets(run, parts)]
        callback = Seen()
        given = {"datamodule": OwnData(run, lambda: loaders)} if as_datamodule else {"dataloaders": loaders}
        getattr(engine(callbacks=[callback]), run)(make_model(class_name="bolt"), **given)
        assert [loader.collate_fn for loader in loaders] == [ImageBatch.collate] * len(loaders)
        return callback.items

    alone, together = seen(1), seen(5)
    assert alone.keys() == together.keys()
    assert len(alone) == 2 * len(SIZES)
    for path, (image, mask) in alone.items():
        assert torch.equal(image, together[path][0])
        assert (mask is None) if run == "predict" else torch.equal(mask, together[path][1])
