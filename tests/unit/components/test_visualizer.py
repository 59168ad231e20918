# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Visualizations: captions, panels, one colour scale."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem, MVTecAD, PredictDataset
from anomalib.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader, Subset

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components.visualizer import LINE_HEIGHT, AprilGanVisualizer, caption
from conftest import GOLDEN, GOOD, Engines, Models

HEAD = 2 * LINE_HEIGHT  # caption and titles
IMAGE = GOLDEN / "dataset" / "bolt" / "test" / "good" / "000.png"


def item(anomaly_map: torch.Tensor, path: Path | None = IMAGE, **kwargs: object) -> ImageItem:
    return ImageItem(
        image=torch.zeros(3, 16, 16),
        image_path=None if path is None else str(path),
        anomaly_map=anomaly_map,
        pred_score=torch.tensor(0.7),
        **kwargs,
    )


def map_panel(anomaly_map: torch.Tensor, map_range: float = 1.0) -> np.ndarray:
    """The lower pixels of image + anomaly map."""
    visualization = AprilGanVisualizer().visualization(item(anomaly_map), "bolt", map_range)
    return np.asarray(visualization)[HEAD + 64 :, 256:512].astype(int)


def test_a_value_has_one_colour_whatever_else_is_in_the_map() -> None:
    """Equal values below, and very different ones above."""
    low, high = torch.full((2, 64, 64), 0.3)
    high[:8] = 1.0
    np.testing.assert_array_equal(map_panel(low), map_panel(high))
    assert np.abs(map_panel(low) - map_panel(torch.full((64, 64), 0.6))).mean() > 10


def test_raw_maps_are_shown_over_their_theoretical_range() -> None:
    np.testing.assert_array_equal(map_panel(torch.full((64, 64), 1.2), 4.0), map_panel(torch.full((64, 64), 0.3)))


def test_a_16_bit_image_is_shown_as_it_is(tmp_path: Path) -> None:
    levels = np.asarray(Image.open(IMAGE).convert("L"))
    Image.fromarray(levels).save(tmp_path / "8.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    visualizations = [
        np.asarray(AprilGanVisualizer().visualization(item(torch.zeros(16, 16), tmp_path / name), "bolt"))
        for name in ("8.png", "16.png")
    ]
    assert np.abs(visualizations[0].astype(int) - visualizations[1]).max() <= 1
    assert visualizations[0][HEAD:].std() > 10


@pytest.mark.parametrize(("label", "words"), [(True, "ABNORMAL"), (False, "normal"), (None, "no threshold")])
def test_caption(label: bool | None, words: str) -> None:
    prediction = SimpleNamespace(
        pred_score=torch.tensor(0.7), pred_label=label if label is None else torch.tensor(label)
    )
    assert caption(prediction, "bolt").split("   ") == ["bolt", "score 0.700", words]


@pytest.mark.parametrize(
    ("size", "box", "shown"),
    [
        ((1000, 400), None, (1000, 400)),  # as it is
        ((1000, 400), (500, 500), (500, 200)),  # to the given box
        ((50, 100), None, (128, 256)),  # large enough for titles
        ((5000, 100), None, (4000, 80)),
    ],
)
def test_images_keep_their_size_and_proportions(
    tmp_path: Path, size: tuple[int, int], box: tuple[int, int] | None, shown: tuple[int, int]
) -> None:
    """And titles cover none of their pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    visualizer = AprilGanVisualizer() if box is None else AprilGanVisualizer(field_size=box)
    prediction = item(torch.zeros(16, 16), tmp_path / "a.png")
    panels = visualizer.panels(prediction)
    assert {title: panel.size for title, panel in panels.items()} == dict.fromkeys(
        ["Image", "Image + anomaly map"], shown
    )
    picture = np.asarray(visualizer.visualization(prediction, "bolt"))
    np.testing.assert_array_equal(picture[-shown[1] :, : shown[0]], np.asarray(panels["Image"]))
    if shown == size:
        np.testing.assert_array_equal(np.asarray(panels["Image"]), pixels)


def test_the_outline_is_that_of_the_mask_in_the_images_proportions(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 600)).save(tmp_path / "a.png")
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[25:50, 50:75] = True
    panel = AprilGanVisualizer().panels(item(torch.zeros(100, 100), tmp_path / "a.png", pred_mask=mask))[
        "Image + outline"
    ]
    rows, columns = np.nonzero(np.asarray(panel)[..., 0] > 100)
    found = rows.min() / 600, rows.max() / 600, columns.min() / 1200, columns.max() / 1200
    assert found == pytest.approx((0.25, 0.5, 0.5, 0.75), abs=0.01)
    assert np.asarray(panel)[225, 750].max() == 0  # within


def test_panels_of_a_test_with_masks(tiny_arguments: dict, tmp_path: Path) -> None:
    """Image, mask, image + map, image + predicted mask, and a caption that is not empty."""
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    engine.test(AprilGan(**tiny_arguments), datamodule=MVTecAD(GOLDEN / "dataset", "bolt", num_workers=0))
    visualizations = sorted(path.relative_to(path.parents[1]) for path in tmp_path.rglob("*.png"))
    assert len(visualizations) == 9
    assert Path("scratch/000.png") in visualizations
    (path,) = tmp_path.rglob("scratch/000.png")
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (256 + HEAD, 4 * 256, 3)
    assert all(pixels[row : row + LINE_HEIGHT].max() > 200 for row in (0, LINE_HEIGHT))
    mask = pixels[HEAD:, 256:512]
    assert set(np.unique(mask > 127)) == {False, True}


def test_a_data_set_of_the_user_has_its_visualizations_too(tiny_arguments: dict, tmp_path: Path) -> None:
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    data = MVTecAD(GOLDEN / "dataset", "bolt", num_workers=0)
    data.setup()
    some = Subset(data.test_data, range(3))
    engine.test(AprilGan(**tiny_arguments), dataloaders=DataLoader(some, collate_fn=data.test_data.collate_fn))
    assert len(list(tmp_path.rglob("images/**/*.png"))) == 3


def test_loaders_of_images_with_the_same_names(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    """Each image has its picture."""
    folders = [Path(shutil.copytree(GOOD, tmp_path / day / "good")) for day in ("monday", "tuesday")]
    loaders = [DataLoader(data, collate_fn=data.collate_fn) for data in map(PredictDataset, folders)]
    engine(tmp_path / "out").predict(make_model(class_name="bolt", visualizer=True), dataloaders=loaders)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * len(list(GOOD.iterdir()))
