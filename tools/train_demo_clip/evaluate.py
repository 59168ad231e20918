# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo's CLIP finds: on solar cells, textile, and the demo's held-out categories, without and with references.

    python tools/train_demo_clip/evaluate.py                         # the package's files; minutes on 2 cores
    python tools/train_demo_clip/evaluate.py --files trial_folder

Cells and textile: 50 normal and 50 defective images (textile: 25 local, 25 global), references and all drawn with seed
0. Figures are AUROC in % of images, and AUROC and F1-max of pixels where there are masks; first zero-shot, then with 4
references, the score bounds taken from the tested images, as the paper does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from tower import package_folder

from anomalib_aprilgan import AprilGan, DemoDataModule
from anomalib_aprilgan.clip.configuration import DEMO, DEMO_ADAPTERS
from anomalib_aprilgan.clip.weights import DEMO_WEIGHTS
from anomalib_aprilgan.comparison.metrics import rank
from anomalib_aprilgan.maps import map_maxima

HELD_OUT = ["grass", "moon", "retina", "stars"]
SIDE, K_SHOT, N_TEST, BATCH = 224, 4, 50, 8
Set = tuple[
    str, str, list[Path], list[Path], list[bool], list[Path | None]
]  # name, class, references, images, labels, masks


def main() -> None:
    """Print a line per data set, and the mean of the demo's categories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="folder with weights and adapters; the package's own by default")
    files = parser.parse_args().files
    weights, adapters = (str(files / each.name) if files else DEMO for each in (DEMO_WEIGHTS, DEMO_ADAPTERS))
    module = AprilGan(DEMO, weights, SIDE, adapters=adapters, evaluator=False, visualizer=False).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in (*solar_cells(), textile(), *demo(Path(folder) / "data")):
            row = evaluate(module, each)
            print(f"{each[0]:10}", " ".join(f"{100 * value:5.1f}" for value in row), flush=True)
            rows += [row] if each[0] in HELD_OUT else []
    print("demo, mean", " ".join(f"{100 * value:5.1f}" for value in np.mean(rows, axis=0)))


def solar_cells() -> Iterator[Set]:
    """The two kinds of cells of ELPV, those that all experts agreed on."""
    folder = package_folder("elpv_dataset") / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    for kind in ("mono", "poly"):
        groups = [sorted(folder / row[0] for row in rows if row[2] == kind and float(row[1]) == p) for p in (0, 1)]
        yield _drawn(f"ELPV {kind}", "solar cell", groups, [N_TEST, N_TEST])


def textile() -> Set:
    """Nominal images against both kinds of defects."""
    folder = package_folder("conformal_clip_data") / "data" / "textile_images" / "simulated"
    groups = [sorted((folder / kind).glob("*.jpg")) for kind in ("nominal", "local", "global")]
    return _drawn("textile", "textile", groups, [N_TEST, N_TEST // 2, N_TEST // 2])


def demo(root: Path) -> Iterator[Set]:
    """The demo's categories whose photographs nothing was trained on."""
    for category in HELD_OUT:
        data = DemoDataModule(root, category)
        data.prepare_data()
        data.setup()
        table = data.test_data.samples
        masks = [Path(path) if path else None for path in table.mask_path]
        references = [Path(path) for path in data.train_data.samples.image_path[:K_SHOT]]
        yield category, category, references, [Path(p) for p in table.image_path], list(table.label_index == 1), masks


def _drawn(name: str, class_name: str, groups: list[list[Path]], counts: list[int]) -> Set:
    rng = np.random.default_rng(0)
    mixed = [[files[index] for index in rng.permutation(len(files))] for files in groups]
    images = [path for files, count in zip(mixed, counts, strict=True) for path in files[:count]]
    labels = [number >= counts[0] for number in range(len(images))]
    return name, class_name, mixed[0][N_TEST : N_TEST + K_SHOT], images, labels, [None] * len(images)


@torch.inference_mode()
def evaluate(module: AprilGan, data: Set) -> list[float]:
    """Figures of a data set, zero-shot, then few-shot."""
    model, transform = module.model, module.reference_transform
    _, class_name, references, images, labels, masks = data

    def read(paths: list[Path]) -> Tensor:
        return torch.stack([transform(pil_to_tensor(Image.open(path).convert("RGB")) / 255) for path in paths])

    encoded = [model.encode(read(images[first : first + BATCH])) for first in range(0, len(images), BATCH)]
    row = []
    for shots in (0, K_SHOT):
        model.setup(class_name, read(references) if shots else None)
        parts = [model.score_parts(each, model.target) for each in encoded]
        text, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        model.set_score_bounds(map_maxima(maps) if shots else None)
        row.append(rank(model.image_score(text, map_maxima(maps)).numpy(), np.array(labels)).auroc())
        if any(masks):
            pixels = rank(maps.numpy()[:, ::2, ::2].ravel(), np.stack([_mask(m) for m in masks])[:, ::2, ::2].ravel())
            row += [pixels.auroc(), pixels.f1_max()]
    return row


def _mask(path: Path | None) -> NDArray[np.bool_]:
    return np.zeros((SIDE, SIDE), bool) if path is None else np.asarray(Image.open(path).convert("L")) > 127


if __name__ == "__main__":
    main()
