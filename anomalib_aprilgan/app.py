# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A page on which to try the model: an image, a class name and perhaps references in; map, score, decision out."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import ImageItem, InferenceBatch
from PIL import Image, ImageOps
from torchvision.tv_tensors import Image as ImageTensor

from anomalib_aprilgan.components.calibration import held_out_scores
from anomalib_aprilgan.components.export import require
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.visualizer import AprilGanVisualizer
from anomalib_aprilgan.data.images import read_rgb
from anomalib_aprilgan.data.references import reference_images, resolve_references
from anomalib_aprilgan.lightning_model import AprilGan
from anomalib_aprilgan.target import Target, TargetRequest

if TYPE_CHECKING:
    from gradio import Blocks

MAX_FILE_SIZE = "20mb"
MAX_PIXELS = 50_000_000
MAX_REFERENCES = 16
# Pixels of the longer side of images; larger ones are resized first. And Pillow's modes for which.
MAX_SIDE, EIGHT_BITS = 2048, ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Seconds between looks for files of visitors, and until they are deleted: a visitor may inspect the same again.
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
        self.visualizer = AprilGanVisualizer()
        self.max_side = max(MAX_SIDE, 2 * image_size)
        self._lock = Lock()  # an image alone keeps all cores busy, and several would add up their memory

    @torch.no_grad()
    def inspect(
        self, image: str | Path, class_name: str, references: Sequence[str | Path] = ()
    ) -> tuple[Image.Image, str]:
        """The visualization of an image file, and score, threshold and decision in words.

        The model's own target does not change, so that several images can be inspected at once.

        Args:
            image: Path of the image.
            class_name: Word for what it shows.
            references: Paths of normal images.

        Raises:
            ValueError: If a file is no image or too large, there are too many references or no class name.
        """
        request = TargetRequest(class_name, len(references), list(references))
        if request.k_shot > MAX_REFERENCES:
            msg = f"Give at most {MAX_REFERENCES} reference images, not {request.k_shot}."
            raise ValueError(msg)
        for path in (image, *references):
            check_file(path)
        with self._lock, TemporaryDirectory() as folder:
            small, *others = [
                small_copy(path, Path(folder) / str(number), self.max_side)
                for number, path in enumerate((image, *references))
            ]
            request = replace(request, source=others)
            item: Any = self._predict(small, self._make_target(class_name, request))
            text = f"{'abnormal' if item.pred_label else 'normal'}: score {float(item.pred_score):.3f}, threshold 0.5"
            return self.visualizer.visualization(item, class_name), text

    def _make_target(self, class_name: str, request: TargetRequest) -> Target:
        references = resolve_references(request, None)
        images = reference_images(references, self.module.reference_transform)
        return self.module.model.make_target(class_name, images, references)

    def _predict(self, path: str | Path, target: Target) -> ImageItem:
        """The image with scores, map and decisions for a target."""
        model, transform = self.module.model, self.module.reference_transform
        image = transform(ImageTensor(read_rgb(path))).to(self.module.device)
        scores, anomaly_maps = model.score(model.encode(image.unsqueeze(0)), target)
        post_processor = AprilGanPostProcessor().to(self.module.device)
        post_processor.assume_range(model.map_upper_bound(target))
        if target.is_few_shot:
            post_processor.calibrate_on_normal(
                *held_out_scores(model, target, transform), model.map_upper_bound(target)
            )
        prediction = post_processor(InferenceBatch(pred_score=scores, anomaly_map=anomaly_maps))
        fields = {name: value[0].cpu() for name, value in prediction._asdict().items()}
        return ImageItem(image=image.cpu(), image_path=str(path), **fields)


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

    def inspect(image: str | None, class_name: str, references: list[str] | None) -> tuple[Image.Image, str]:
        if image is None:
            msg = "Drop an image first."
            raise gradio.Error(msg)
        try:
            return inspector.inspect(image, class_name, references or [])
        except ValueError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title="APRIL-GAN", analytics_enabled=False, delete_cache=(DELETE_EVERY, KEEP)) as page:
        gradio.Markdown("# APRIL-GAN\nDrop an image and type what it shows. Images of flawless parts sharpen the map.")
        with gradio.Row():
            with gradio.Column(scale=1):
                image = gradio.File(label="Image", file_types=["image"], elem_id="image")
                class_name = gradio.Textbox(label="Class name", placeholder="metal bracket", elem_id="class_name")
                references = gradio.File(
                    label="Flawless references (optional)",
                    file_count="multiple",
                    file_types=["image"],
                    elem_id="references",
                )
                button = gradio.Button("Inspect", variant="primary", elem_id="inspect")
            with gradio.Column(scale=2):
                verdict = gradio.Textbox(label="Decision", elem_id="verdict")
                picture = gradio.Image(
                    show_label=False, buttons=["download", "fullscreen"], elem_id="picture", format="png"
                )
        # One at a time: an image alone keeps all cores busy.
        button.click(inspect, [image, class_name, references], [picture, verdict], concurrency_limit=1)
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
