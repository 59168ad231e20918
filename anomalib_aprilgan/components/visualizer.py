# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's visualizations with a caption, in the colours of one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib.data import PredictDataset
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import get_visualize_function
from lightning.pytorch import Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from anomalib_aprilgan.compat.anomalib import output_paths
from anomalib_aprilgan.compat.lightning import unrepeated
from anomalib_aprilgan.components.contact_sheet import SHEET, ContactSheet
from anomalib_aprilgan.components.model_checkpoint import is_dry
from anomalib_aprilgan.components.predictions import NO_THRESHOLD, threshold_origin
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.data.predict import path_datasets, to_be_shown

LARGEST = (4000, 4000)  # pixels of an image in a picture, at most: WebP takes 16383 for four side by side
LINE_HEIGHT, LINES_PER_SIDE = 24, 24  # pixels of a line of text: at least, and as a part of the longer side
OUTLINE_SIDE = 512  # pixels of the longer side of a mask whose outline is drawn
TITLES = {"gt_mask": "mask", "pred_mask": "outline", "anomaly_map": "anomaly map"}


class AprilGanVisualizer(ImageVisualizer):
    """anomalib's image visualizer with class name, score and decision above each visualization.

    Images have their own size and proportions, and titles stand above them. ``field_size`` is the width and height that
    they do not exceed. The outline is that of the anomaly map where it is above its threshold; without a threshold
    there is none.

    A colour means the same anomaly in all visualizations of a run: maps are shown as the post-processor normalises
    them, with the threshold in the middle of the scale. Without a post-processor, they are shown over their theoretical
    range.

    The images with the highest scores are in ``contact_sheet.jpg`` too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "field_size" not in kwargs and len(args) < 3:
            self.field_size = LARGEST

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget where the images of an earlier run were saved."""
        del trainer, pl_module
        self._paths: dict[Path, Path] = {}
        self._sheet = ContactSheet()

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Have images kept at the visualization's size when they are decoded for the model."""
        self.on_test_start(trainer, pl_module)
        if not is_dry(trainer):
            for dataset in path_datasets(trainer).values():
                dataset.thumbnail_box = self.field_size

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save a visualization of each image of the batch that no other process has."""
        del outputs
        own = unrepeated(batch, trainer, batch_idx, dataloader_idx)
        if own is None or is_dry(trainer):
            return
        thumbnails = getattr(path_datasets(trainer).get(dataloader_idx), "thumbnails", {})
        known = bool(threshold_origin(pl_module.post_processor))
        for item in own:
            path = self._path(item, trainer)
            shown: Any = item if known else replace(item, pred_label=None, pred_mask=None)
            thumbnail = thumbnails.pop(item.image_path, None)
            shown = shown if thumbnail is None else replace(shown, image=thumbnail, image_path=None)
            panels = self.panels(shown, _map_range(pl_module))
            path.parent.mkdir(parents=True, exist_ok=True)
            framed(panels, caption(shown, pl_module.model.class_name)).save(
                path, compress_level=1
            )  # a PNG in a fourth of the time
            self._sheet.add(float(shown.pred_score), path, verdict(shown), list(panels.values())[-1])

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the contact sheet."""
        del pl_module
        if trainer.world_size > 1:
            self._sheet.gather()
        if trainer.is_global_zero and self._sheet.entries:
            self._sheet.draw().save(Path(trainer.default_root_dir) / SHEET, quality=90)

    on_predict_end = on_test_end

    def visualization(self, item: Any, class_name: str | None, map_range: float = 1.0) -> Image.Image:
        """Image, mask, and the image under the anomaly map and the predicted mask, side by side below the caption.

        Args:
            item: Prediction of an image. The image is read from ``image_path`` if there is one.
            class_name: For the caption.
            map_range: What the anomaly map does not exceed: 1 if it is normalised.
        """
        return framed(self.panels(item, map_range), caption(item, class_name))

    def panels(self, item: Any, map_range: float = 1.0) -> dict[str, Image.Image]:
        """What stands side by side in a visualization, by title: see ``visualization``."""
        image = item.image if item.image_path is None else to_be_shown(read_rgb(item.image_path), self.field_size)
        item = replace(item, image=image, image_path=None, anomaly_map=item.anomaly_map / map_range)
        height, width = image.shape[-2:]
        if item.pred_mask is not None:
            item = replace(item, pred_mask=_smooth(item.pred_mask, height, width))
        stacks = [[name] for name in self.fields] + [[base, *over] for base, over in self.overlay_fields]
        return {
            " + ".join(TITLES.get(name, name) for name in names).capitalize(): self._panel(item, names, (width, height))
            for names in stacks
            if all(getattr(item, name, None) is not None for name in names)
        }

    def _panel(self, item: Any, names: Sequence[str], size: tuple[int, int]) -> Image.Image:
        """The first field, and the others over it, as anomalib draws each, but not one by one at full size."""
        first, *others = names
        panel = _drawn(item, first, self.fields_config).convert("RGB").resize(size)
        for name in others:
            layer = _drawn(item, name, self.overlay_fields_config).convert("RGBA").resize(size)
            share = self.overlay_fields_config.get(name, {}).get("alpha", 0.5)
            panel.paste(
                layer.convert("RGB"), mask=layer.getchannel("A").point(lambda value, share=share: value * share)
            )
        return panel

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


def _drawn(item: Any, name: str, configs: Mapping[str, dict[str, Any]]) -> Image.Image:
    drawn: Image.Image = get_visualize_function(name)(getattr(item, name), **configs.get(name, {}))
    return drawn


def _smooth(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask in an image's proportions, of a size at which its outline is one pixel wide."""
    scale = min(1.0, OUTLINE_SIDE / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return resize(mask.reshape(1, *mask.shape[-2:]).float(), size)[0] >= 0.5


def framed(panels: Mapping[str, Image.Image], caption: str) -> Image.Image:
    """Images of one size side by side, each below its title, and all below the caption."""
    width, height = next(iter(panels.values())).size
    line = max(LINE_HEIGHT, max(width, height) // LINES_PER_SIDE)
    column, font = max(width, 7 * line), ImageFont.load_default(0.6 * line)
    picture = Image.new("RGB", (column * len(panels), height + 2 * line))
    draw = ImageDraw.Draw(picture)
    draw.text((line // 4, line // 6), caption, font=font)
    for number, (title, panel) in enumerate(panels.items()):
        draw.text((column * number + line // 4, line + line // 6), title, font=font)
        picture.paste(panel, (column * number, 2 * line))
    return picture


def verdict(item: Any) -> str:
    """Score and decision in words."""
    decision = NO_THRESHOLD if item.pred_label is None else "ABNORMAL" if item.pred_label else "normal"
    return f"score {float(item.pred_score):.3f}   {decision}"


def caption(item: Any, class_name: str | None) -> str:
    """Class name, score and decision in words."""
    return f"{class_name}   {verdict(item)}"
