# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What smaller memory banks cost in accuracy: AUROC of the few-shot maps alone, with the demo's CLIP on its data.

python benchmarks/memory_accuracy.py             # 10 references, two categories; minutes on 2 CPU cores
python benchmarks/memory_accuracy.py --quick     # 2 references, one category
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomalib_aprilgan import AprilGan, DemoDataModule
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.maps import few_shot_map
from anomalib_aprilgan.memory import coreset, distances, make_banks

SIDE = 224
VARIANTS = [(1.0, torch.float32), (1.0, torch.bfloat16), *((ratio, torch.float32) for ratio in (0.5, 0.25, 0.1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    categories, shots = (["moon"], 2) if quick else (["moon", "retina"], 10)
    encoder = ClipEncoder("demo", "demo", SIDE)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        figures = np.mean([measured(encoder, Path(folder) / "data", name, shots) for name in categories], axis=0)
    print(f"{shots} references, mean over {', '.join(categories)}: image and pixel AUROC of the few-shot map")
    for (ratio, dtype), (image, pixel) in zip(VARIANTS, figures, strict=True):
        print(f"coreset_sampling_ratio {ratio:4.2f}, {str(dtype)[6:]:8}: {image:.4f} {pixel:.4f}")


def measured(encoder: ClipEncoder, root: Path, category: str, shots: int) -> list[tuple[float, float]]:
    """Image and pixel AUROC of each variant."""
    data = DemoDataModule(root, category)
    data.prepare_data()
    data.setup()
    references = encoded(encoder, [data.train_data[index].image for index in range(shots)])
    items = list(data.test_data)
    tokens = encoded(encoder, [item.image for item in items])
    masks = np.stack([item.gt_mask.numpy() != 0 for item in items])
    return [auroc(bank(references, *variant), tokens, masks) for variant in VARIANTS]


def encoded(encoder: ClipEncoder, images: list[Tensor]) -> list[Tensor]:
    transform = AprilGan.configure_pre_processor((SIDE, SIDE)).transform
    stages = [encoder(transform(image).unsqueeze(0))[1] for image in images]
    return [torch.cat(tokens) for tokens in zip(*stages, strict=True)]


def bank(references: list[Tensor], ratio: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return make_banks([coreset(tokens, ratio) for tokens in references], dtype)


def auroc(banks: tuple[Tensor, ...], tokens: list[Tensor], masks: np.ndarray) -> tuple[float, float]:
    maps = few_shot_map(distances(tokens, banks), SIDE)
    image = roc_auc_score(masks.any(axis=(1, 2)), maps.amax(dim=(1, 2)))
    return float(image), float(roc_auc_score(masks.flatten(), maps.flatten()))


if __name__ == "__main__":
    main()
