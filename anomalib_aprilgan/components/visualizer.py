# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's visualizations with a caption, in the colours of one scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib.data import PredictDataset
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import add_text_to_image
from lightning.pytorch import Trainer
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import resize

from anomalib_aprilgan.compat.anomalib import output_paths
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.data.predict import path_datasets

CAPTION_HEIGHT = 28


class AprilGanVisualizer(ImageVisualizer):
    """anomalib's image visualizer with class name, score and decision above each visualization.

    A colour means the same anomaly in all visualizations of a run: maps are shown as the post-processor normalises
    them, with the threshold in the middle of the scale. Without a post-processor, they are shown over their theoretical
    range.
    """

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget where the images of an earlier run were saved."""
        del trainer, pl_module
        self._paths: dict[Path, Path] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Have images kept at the visualization's size when they are decoded for the model."""
        self.on_test_start(trainer, pl_module)
        width, height = self.field_size
        for dataset in path_datasets(trainer).values():
            dataset.thumbnail_size = [height, width]

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save a visualization of each image of the batch."""
        del outputs, batch_idx
        dataset = path_datasets(trainer).get(dataloader_idx)
        for item in batch:
            path = self._path(item, trainer)
            path.parent.mkdir(parents=True, exist_ok=True)
            thumbnail = getattr(dataset, "thumbnails", {}).pop(item.image_path, None)
            shown = item if thumbnail is None else replace(item, image=thumbnail, image_path=None)
            self.visualization(shown, pl_module.model.class_name, _map_range(pl_module)).save(path)

    def visualization(self, item: Any, class_name: str | None, map_range: float = 1.0) -> Image.Image:
        """Image, mask, and the image under the anomaly map and the predicted mask, side by side below the caption.

        Args:
            item: Prediction of an image. The image is read from ``image_path`` if there is one.
            class_name: For the caption.
            map_range: What the anomaly map does not exceed: 1 if it is normalised.
        """
        item = replace(item, anomaly_map=item.anomaly_map / map_range)
        if item.image_path is not None:
            width, height = self.field_size
            image = resize(read_rgb(item.image_path), [height, width], antialias=True)
            item = replace(item, image=image, image_path=None)
        panels: Any = self.visualize(item)
        framed = ImageOps.expand(panels.convert("RGB"), border=(0, CAPTION_HEIGHT, 0, 0))
        return add_text_to_image(framed, caption(item, class_name), size=16, position=(6, 5))

    def _path(self, item: Any, trainer: Trainer) -> Path:
        """Where to save the visualization of an image: no other image of the run has the same place."""
        image = Path(item.image_path or f"image_{len(self._paths)}.png")
        if image not in self._paths:
            loaders: Any = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
            datasets = [
                getattr(loader, "dataset", None) for loader in (loaders if isinstance(loaders, list) else [loaders])
            ]
            at_path = any(isinstance(dataset, PredictDataset) for dataset in datasets)
            images = [path for dataset in datasets for path in _images(dataset)]
            folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
            datamodule = None if at_path else getattr(trainer, "datamodule", None)
            self._paths |= output_paths([*dict.fromkeys([*map(Path, images), image])], folder, datamodule)
        return self._paths[image]


def _images(dataset: Any) -> Iterable[str | Path]:
    """Paths of all images of a data set. One that is not anomalib's has no table of samples."""
    if isinstance(dataset, PredictDataset):
        return dataset.image_filenames
    return getattr(getattr(dataset, "samples", None), "image_path", ())


def _map_range(module: Any) -> float:
    """What an AprilGan's anomaly maps do not exceed."""
    normalized = getattr(module.post_processor, "enable_normalization", False)
    return 1.0 if normalized else module.model.map_upper_bound()


def caption(item: Any, class_name: str | None) -> str:
    """Class name, score and, if there is one, decision in words."""
    text = f"{class_name}   score {float(item.pred_score):.3f}"
    if item.pred_label is None:
        return text
    return f"{text}   {'ABNORMAL' if item.pred_label else 'normal'}"
