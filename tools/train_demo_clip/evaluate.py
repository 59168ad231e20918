# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo's CLIP finds on the held-out categories, by kind of defect.

    python tools/train_demo_clip/evaluate.py                           # the package's weights; minutes on 2 cores
    python tools/train_demo_clip/evaluate.py --weights trial.safetensors

Adapters are trained on the auxiliary categories first, three passes, as in configs/compare_demo.yaml. Each figure is an
AUROC in %, image / pixel, of the normal test images and those with one kind of defect.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from anomalib.engine import Engine
from numpy.typing import NDArray
from torch import Tensor

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule, DemoDataModule
from anomalib_aprilgan.comparison.metrics import rank
from anomalib_aprilgan.data.defects import DEFECTS
from anomalib_aprilgan.maps import map_maxima
from anomalib_aprilgan.torch_model import AprilGanModel

AUXILIARY = ["brick", "coins", "gravel", "page", "tissue"]
HELD_OUT = ["grass", "moon", "retina", "stars"]
SIDE, K_SHOT, EPOCHS = 224, 4, 3
Row = dict[str, tuple[float, float]]  # image and pixel AUROC of each kind of defect, and of all


def main() -> None:
    """Train adapters, then print a line per category and number of references."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo", help="safetensors file; the package's own by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        model = train_adapters(arguments.weights, root, Path(folder))
        rows: dict[int, list[Row]] = {0: [], K_SHOT: []}
        for category in HELD_OUT:
            for shots, table in rows.items():
                table.append(evaluate(model, root, category, shots))
                print(line(category, shots, table[-1]), flush=True)
    for shots, table in rows.items():
        means = {kind: tuple(np.mean([row[kind] for row in table], axis=0)) for kind in table[0]}
        print(line("mean", shots, means))


def train_adapters(weights: str, root: Path, folder: Path) -> AprilGanModel:
    """The model with adapters trained on the auxiliary categories."""
    module = AprilGan("demo", weights, SIDE, adapters=None, evaluator=False, visualizer=False)
    data = AuxiliaryDataModule(DemoDataModule(root), categories=AUXILIARY, num_workers=0)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Engine(max_epochs=EPOCHS, limit_val_batches=0, default_root_dir=folder, **options).fit(module, datamodule=data)
    return module.model.eval()


@torch.no_grad()
def evaluate(model: AprilGanModel, root: Path, category: str, shots: int) -> Row:
    """AUROC of images and pixels in %, by kind of defect and of all."""
    data = DemoDataModule(root, category)
    data.setup()
    transform = AprilGan.configure_pre_processor((SIDE, SIDE)).transform
    references = [transform(data.train_data[index].image) for index in range(shots)]
    model.setup(category, torch.stack(references) if references else None)
    items = list(data.test_data)
    pieces = [
        model.score_parts(model.encode(images), model.target)
        for images in torch.stack([transform(i.image) for i in items]).split(8)
    ]
    text, maps = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    if shots:
        model.set_score_bounds(map_maxima(maps))
    scores = model.image_score(text, map_maxima(maps))
    masks = np.stack([item.gt_mask.numpy().astype(bool) for item in items])
    kinds = np.array([Path(path).parent.name for path in data.test_data.samples.image_path])
    chosen = {kind: np.isin(kinds, ["good", kind]) for kind in sorted(DEFECTS)} | {"all": np.full(len(kinds), True)}
    return {kind: _aurocs(scores, maps, masks, rows) for kind, rows in chosen.items()}


def line(category: str, shots: int, row: Row) -> str:
    """One line of the table."""
    return f"{category:7} {shots}-shot | " + " | ".join(f"{k} {i:5.1f} / {p:5.1f}" for k, (i, p) in row.items())


def _aurocs(scores: Tensor, maps: Tensor, masks: NDArray[np.bool_], rows: NDArray[np.bool_]) -> tuple[float, float]:
    pixels = rank(maps.numpy()[rows].ravel(), masks[rows].ravel())
    return 100 * rank(scores.numpy()[rows], masks[rows].any(axis=(1, 2))).auroc(), 100 * pixels.auroc()


if __name__ == "__main__":
    main()
