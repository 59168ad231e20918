# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's pictures, captioned, in the colours of one scale."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import add_text_to_image
from lightning.pytorch import Trainer
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import resize

from anomalib_aprilgan.components.predictions import path_datasets
from anomalib_aprilgan.data.images import read_rgb

if TYPE_CHECKING:
    from anomalib_aprilgan.lightning_model import AprilGan

CAPTION_HEIGHT = 28


class AprilGanVisualizer(ImageVisualizer):
    """anomalib's image visualizer with class name, score and decision above each picture.

    A colour means the same anomaly in all pictures of a run: maps are shown as the post-processor normalises them, with
    the threshold in the middle of the scale; without it, over their theoretical range.

    Pictures of a predicted folder keep its structure. Differs: anomalib keeps one level of it, so that images of the
    same name overwrite each other.
    """

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save a picture of each image of the batch."""
        del outputs, batch_idx, dataloader_idx
        for item in batch:
            picture = self.picture(item, pl_module)
            path = self._path(item, trainer)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)

    def picture(self, item: Any, module: AprilGan) -> Image.Image:
        """Image, mask, and the image under the anomaly map and the predicted mask, side by side below the caption."""
        post_processor = module.post_processor
        if not getattr(post_processor, "enable_normalization", False):
            item = replace(item, anomaly_map=item.anomaly_map / module.model.map_maximum)
        if item.image_path is not None:  # anomalib would open the file, and 16-bit images would be white
            width, height = self.field_size
            image = resize(read_rgb(item.image_path), [height, width], antialias=True)
            item = replace(item, image=image, image_path=None)
        panels: Any = self.visualize(item)
        framed = ImageOps.expand(panels.convert("RGB"), border=(0, CAPTION_HEIGHT, 0, 0))
        return add_text_to_image(framed, caption(item, module.model.class_name), size=16, position=(6, 5))

    def _path(self, item: Any, trainer: Trainer) -> Path:
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        path = Path(item.image_path or "image.png")
        for dataset in path_datasets(trainer) if trainer.predicting else []:
            if path in dataset.image_filenames:
                return folder / path.relative_to(common_folder(dataset.image_filenames).parent)
        datamodule = getattr(trainer, "datamodule", None)
        return generate_output_filename(
            path, folder, getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        )


def caption(item: Any, class_name: str | None) -> str:
    """Class name, score and decision in words, as far as they are known."""
    text = f"{class_name}   score {float(item.pred_score):.3f}"
    if item.pred_label is None:
        return text
    return f"{text}   {'ABNORMAL' if item.pred_label else 'normal'}"


def common_folder(paths: list[Path]) -> Path:
    """The deepest folder that holds all the files."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
