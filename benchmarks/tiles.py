# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What tiles are worth where defects are small: scratches one to two pixels wide in images of 896 x 896 pixels.

python benchmarks/tiles.py           # the demo's CLIP and adapters on four photographs that they have not seen
python benchmarks/tiles.py --quick   # one of them, few images

Image AUROC and F1-max, pixel AUROC and F1-max (of maps at 448 x 448) in %, and the processor's time beside that
of whole images without references.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.comparison.metrics import image_metrics, rank
from anomalib_aprilgan.data.defects import _shade, _stroke
from anomalib_aprilgan.data.demo import PHOTOGRAPHS, _read_photograph

SIDE, LARGE, JUDGED, SHOTS = 224, 896, 448, 4
Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", nargs="+", default=["moon", "grass", "retina", "stars"])
    parser.add_argument("--images", type=int, default=8, help="normal and as many defective ones of each category")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    categories, n_images = (["moon"], 3) if options.quick else (options.categories, options.images)
    models = {name: make_model(**given) for name, given in MODELS.items() if not options.quick or "4" not in name}
    print(f"{'':22}image AUROC  F1-max  pixel AUROC  F1-max  time")
    for category in categories:
        references, images, masks = draw(category, n_images)
        whole = 0.0
        for name, model in models.items():
            for shots, (figures, seconds) in measured(model, category, references, images, masks).items():
                whole = whole or seconds
                shown = (f"{100 * figure:8.1f}" for figure in figures)
                print(f"{category:7}{name:11}{shots} shots", *shown, f"  x {seconds / whole:.1f}", flush=True)


MODELS: dict[str, dict] = {"whole": {}, "tiles=2": {"tiles": 2}, "tiles=4": {"tiles": 4}}


def make_model(**options: object) -> AprilGan:
    # A quarter of the references' tokens, because 16 tiles of 4 references are 50,176 rows for each stage.
    return AprilGan(
        "demo", "demo", SIDE, adapters="demo", visualizer=False, coreset_sampling_ratio=0.25, **options
    ).eval()


def draw(category: str, n_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """References, images (M, 3, LARGE, LARGE) in [0, 1], the second half with a scratch, and their masks."""
    rng = np.random.default_rng(0)
    name, scale = PHOTOGRAPHS[category]
    photograph = _read_photograph(name)
    width, height = photograph.size
    halves = photograph.crop((0, 0, width // 2, height)), photograph.crop((width // 2, 0, width, height))
    references = [view(halves[0], scale, rng) for _ in range(SHOTS)]
    images = [view(halves[1], scale, rng) for _ in range(2 * n_images)]
    coverages = [np.zeros((LARGE, LARGE))] * n_images
    for number in range(n_images, 2 * n_images):
        images[number], coverage = scratch(images[number], rng)
        coverages.append(coverage)
    masks = torch.from_numpy(np.stack(coverages) > 0.3)
    return tensor(references), tensor(images), F.max_pool2d(masks.float(), LARGE // JUDGED).bool()


def view(photograph: Image.Image, scale: float, rng: np.random.Generator) -> Array:
    """What the demo's images show, at four times their size: (LARGE, LARGE, 3)."""
    side = SIDE * scale * rng.uniform(0.92, 1.08)
    left, top = (rng.uniform(0, length - side) for length in photograph.size)
    size = (LARGE, LARGE)
    pixels = photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    light = 1 + rng.uniform(-0.06, 0.06) + rng.uniform(-0.05, 0.05) * np.linspace(-1, 1, LARGE)[:, None, None]
    return np.clip(np.asarray(pixels) / 255 * light + rng.normal(0, 0.01, (LARGE, LARGE, 3)), 0, 1)


def scratch(image: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A straight scratch 1 to 2 pixels wide, 5 to 15 % of the side long; image and coverage (LARGE, LARGE)."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.15) * LARGE
    start = rng.uniform(0.2, 0.8, 2) * LARGE
    curve = np.stack([start, start + length * np.array([np.cos(angle), np.sin(angle)])])
    coverage = _stroke(curve, rng.uniform(1, 2), LARGE)
    return _shade(image, coverage, rng.uniform(0.25, 0.45)), coverage


def tensor(images: list[Array]) -> Tensor:
    return torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2)


@torch.inference_mode()
def measured(
    module: AprilGan, category: str, references: Tensor, images: Tensor, masks: Tensor
) -> dict[int, tuple[tuple[float, ...], float]]:
    """By number of references: image AUROC, F1-max, pixel AUROC, F1-max; and seconds of the processor."""
    model, transform = module.model, module.reference_transform
    targets = {0: model.make_target(category), SHOTS: model.make_target(category, transform(references))}
    found: dict[int, list] = {shots: [] for shots in targets}
    seconds = dict.fromkeys(targets, 0.0)
    for batch in images.split(4):
        start = time.process_time()
        encoded = model.encode(transform(batch))
        encoding = time.process_time() - start
        for shots, target in targets.items():
            start = time.process_time()
            text, maps = model.score_parts(encoded, target)
            seconds[shots] += encoding + time.process_time() - start
            judged = F.interpolate(maps[:, None], JUDGED, mode="bilinear")[:, 0]
            found[shots].append((text, model.map_peaks(maps), judged))
    results = {}
    for shots, target in targets.items():
        text, peaks, judged = (torch.cat(part) for part in zip(*found[shots], strict=True))
        model.target = target
        model.set_score_bounds(peaks)
        by_image = image_metrics(model.image_score(text, peaks).numpy(), masks.flatten(1).any(dim=1).numpy())
        pixels = rank(judged.flatten().numpy(), masks.flatten().numpy())
        figures = (by_image["image_AUROC"], by_image["image_F1Max"], pixels.auroc(), pixels.f1_max())
        results[shots] = (figures, seconds[shots])
    return results


if __name__ == "__main__":
    main()
