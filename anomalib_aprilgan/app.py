# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A page on which to try the model: images, a class name and perhaps references in; maps, scores, decisions out."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import ImageItem, InferenceBatch
from PIL import Image, ImageOps
from torchvision.tv_tensors import Image as ImageTensor

from anomalib_aprilgan.compat.gradio import watch_uploads
from anomalib_aprilgan.components.calibration import held_out_scores
from anomalib_aprilgan.components.export import require
from anomalib_aprilgan.components.page import MIDDLE, Row, moved, pictures_html, table_html, verdict
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.predictions import COLUMNS, batch_rows, fingerprint
from anomalib_aprilgan.components.visualizer import AprilGanVisualizer, framed
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.data.predict import to_be_shown
from anomalib_aprilgan.data.references import reference_images, resolve_references
from anomalib_aprilgan.lightning_model import AprilGan
from anomalib_aprilgan.target import Target, TargetRequest

if TYPE_CHECKING:
    from gradio import Blocks

MAX_FILE_SIZE = "20mb"
MAX_PIXELS = 50_000_000
MAX_IMAGES, MAX_REFERENCES = 50, 16
SHOWN_SIZE = (1024, 1024)  # pixels of an image on the page, at most
# Pixels of the longer side of images; larger ones are resized first. And Pillow's modes for which.
MAX_SIDE, EIGHT_BITS = 2048, ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Seconds between looks for files of visitors who did not wait for an answer, and until they are deleted.
DELETE_EVERY, KEEP = 60, 600


class Inspector:
    """A model that inspects images for a class name and references that may differ from image to image.

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".
        pretrained: open_clip tag, path of a checkpoint, or None for random weights.
        image_size: Height and width in pixels to which images are resized.
        adapters: Name or path of adapters, such as a checkpoint; None: untrained ones.
    """

    def __init__(self, backbone: str, pretrained: str | None, image_size: int, adapters: str | None) -> None:
        module = AprilGan(backbone, pretrained, image_size, adapters=adapters).eval()
        self.module = module.to("cuda" if torch.cuda.is_available() else "cpu")
        self.module.load_adapters()
        self.visualizer = AprilGanVisualizer(field_size=SHOWN_SIZE)
        self.max_side = max(MAX_SIDE, 2 * image_size)
        self._lock = Lock()  # an image alone keeps all cores busy, and several would add up their memory

    def inspect(
        self, image: str | Path, class_name: str, references: Sequence[str | Path] = ()
    ) -> tuple[Image.Image, str]:
        """The visualization of an image file, and score, threshold and decision in words; see ``inspect_all``."""
        ((item, row),) = self.inspect_all([image], class_name, references)
        return self.visualizer.visualization(item, class_name), verdict([row])

    @torch.no_grad()
    def inspect_all(
        self, images: Sequence[str | Path], class_name: str, references: Sequence[str | Path] = ()
    ) -> list[tuple[ImageItem, Row]]:
        """The prediction of each image file, and its row of the table of predictions.

        The model's own target does not change, so that several visitors can be served at once.

        Args:
            images: Paths of the images.
            class_name: Word for what they show.
            references: Paths of normal images.

        Raises:
            ValueError: If a file is no image or too large, there are too many of them or no class name.
        """
        request = TargetRequest(class_name, len(references), list(references))
        for kind, paths, most in (("reference images", references, MAX_REFERENCES), ("images", images, MAX_IMAGES)):
            if len(paths) > most:
                msg = f"Give at most {most} {kind}, not {len(paths)}."
                raise ValueError(msg)
        files = [*images, *references]
        for path in files:
            check_file(path)
        with self._lock, TemporaryDirectory() as folder:
            small = [small_copy(path, Path(folder) / str(number), self.max_side) for number, path in enumerate(files)]
            target = self._make_target(class_name, replace(request, source=small[len(images) :]))
            return self._predict(small[: len(images)], target)

    def _make_target(self, class_name: str, request: TargetRequest) -> Target:
        references = resolve_references(request, None)
        images = reference_images(references, self.module.reference_transform)
        return self.module.model.make_target(class_name, images, references)

    def _predict(self, paths: Sequence[str], target: Target) -> list[tuple[ImageItem, Row]]:
        model, transform = self.module.model, self.module.reference_transform
        post_processor = AprilGanPostProcessor().to(self.module.device)
        post_processor.assume_range(model.map_upper_bound(target))
        if target.is_few_shot:
            post_processor.calibrate_on_normal(
                *held_out_scores(model, target, transform), model.map_upper_bound(target)
            )
        known, found = bool(post_processor.threshold_origin), list[tuple[ImageItem, Row]]()
        name = fingerprint(model, target)
        for path in paths:
            shown = to_be_shown(pixels := read_rgb(path), self.visualizer.field_size)
            image = transform(ImageTensor(pixels)).to(self.module.device)
            scores, anomaly_maps = model.score(model.encode(image.unsqueeze(0)), target)
            batch = post_processor(InferenceBatch(pred_score=scores, anomaly_map=anomaly_maps))
            named: Any = SimpleNamespace(image_path=[Path(path).name], gt_label=None, **batch._asdict())
            (row,) = batch_rows(named, scores.tolist(), post_processor, name)
            fields = {name: value[0].cpu() for name, value in batch._asdict().items()}
            fields |= {} if known else {"pred_label": None, "pred_mask": None}
            found.append((ImageItem(image=shown, **fields), dict(zip(COLUMNS, row, strict=True))))
        return found


def check_file(path: str | Path) -> None:
    """Check that a file is an image of a size that may be decoded.

    Raises:
        ValueError: If it has too many pixels or is none.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, Image.DecompressionBombError) as error:
        msg = f"{Path(path).name} can't be read as an image: {error}"
        raise ValueError(msg) from error
    if width * height > MAX_PIXELS:
        msg = f"{Path(path).name} has {width} x {height} pixels, more than {MAX_PIXELS}: make it smaller."
        raise ValueError(msg)


def small_copy(path: str | Path, folder: Path, side: int) -> str:
    """Path of the file, or of a smaller copy: 49 million pixels in float32, several times, take 5 GB.

    Args:
        path: Image file. One that has not 8 bits per channel, or several pages, is left as it is.
        folder: Of the copy, to be made; the copy has the file's name.
        side: Pixels that the copy's longer side has and the file's exceeds.

    Raises:
        ValueError: If the file can't be decoded.
    """
    try:
        with Image.open(path) as image:
            if max(image.size) <= side or image.mode not in EIGHT_BITS or getattr(image, "n_frames", 1) > 1:
                return str(path)
            ImageOps.exif_transpose(image, in_place=True)
            copy = image.convert("RGB")
        copy.thumbnail((side, side), Image.Resampling.BICUBIC)
        folder.mkdir()
        copy.save(folder / Path(path).name, format="PNG")
        return str(folder / Path(path).name)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        msg = f"{Path(path).name} can't be read as an image: {error}"
        raise ValueError(msg) from error


def build_page(inspector: Inspector) -> Blocks:
    """The page, not served yet.

    Raises:
        ModuleNotFoundError: If the extra ``demo`` is not installed.
    """
    require("gradio", "demo")
    # Read when gradio is imported: the page must work, and stay silent, without a network.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # What visitors send and get lies where only this user can read it, and is deleted.
    os.environ["GRADIO_TEMP_DIR"] = mkdtemp(prefix="aprilgan-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    import gradio  # noqa: PLC0415

    def inspect(images: list[str] | None, class_name: str, references: list[str] | None) -> list[Any]:
        if not images:
            msg = "Drop an image first."
            raise gradio.Error(msg, print_exception=False)
        try:
            with uploads.answering([*images, *(references or [])]):
                found = inspector.inspect_all(images, class_name, references or [])
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        rows = [row for _, row in found]
        pictures = [
            framed(inspector.visualizer.panels(item), f"{row['image_path']}   score {row['pred_score']:.3f}")
            for item, row in found
        ]
        # The inputs are emptied, since their files are gone.
        return [*decide(rows, MIDDLE), pictures_html(pictures), rows, MIDDLE, None, None]

    def decide(rows: list[Row] | None, threshold: float) -> list[str]:
        return [verdict(now := moved(rows, threshold)), table_html(now)] if rows else ["", ""]

    with gradio.Blocks(title="APRIL-GAN", analytics_enabled=False, delete_cache=(DELETE_EVERY, KEEP)) as page:
        uploads = watch_uploads(page)
        rows = gradio.State(time_to_live=KEEP)
        gradio.Markdown(
            "# APRIL-GAN\nDrop images and type what they show. Images of flawless parts sharpen the map and set the "
            "threshold. What you send is deleted once you have the answer."
        )
        files = partial(gradio.File, file_count="multiple", file_types=["image"])
        with gradio.Row():
            with gradio.Column(scale=1):
                images = files(label="Images", elem_id="image")
                class_name = gradio.Textbox(label="Class name", placeholder="metal bracket", elem_id="class_name")
                references = files(label="Flawless references (optional)", elem_id="references")
                button = gradio.Button("Inspect", variant="primary", elem_id="inspect")
            with gradio.Column(scale=2):
                found = gradio.Textbox(label="Decision", elem_id="verdict")
                threshold = gradio.Slider(
                    0, 1, MIDDLE, step=0.01, label="Threshold (0.5: that of the references)", elem_id="threshold"
                )
                table = gradio.HTML(elem_id="rows")
                pictures = gradio.HTML(elem_id="pictures")
        # All are taken up at once, so that `uploads` knows who needs a file; the inspector does one after the other.
        button.click(
            inspect,
            [images, class_name, references],
            [found, table, pictures, rows, threshold, images, references],
            concurrency_limit=None,
        )
        threshold.release(decide, [rows, threshold], [found, table])
    return page


def serve(page: Blocks, host: str, port: int) -> None:
    """Serve the page until the process is stopped, which deletes what visitors sent."""
    import gradio  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The default theme asks a font server.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page.launch(
        server_name=host, server_port=port, max_file_size=MAX_FILE_SIZE, theme=theme, share=False, footer_links=[]
    )
