# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What a pool is worth: image AUROC, pixel AUROC and pixel F1-max on the demo data, with the demo's CLIP.

anomalib train --config configs/demo.yaml        # makes the adapters
python benchmarks/pool_accuracy.py --adapters results/AprilGan/.../weights/lightning/model.ckpt
python benchmarks/pool_accuracy.py --quick       # one category, eight images, untrained adapters
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.metrics import precision_recall_curve, roc_auc_score
from torch import Tensor

from anomalib_aprilgan import AprilGan, DemoDataModule
from anomalib_aprilgan.clip.encoder import Encoded
from anomalib_aprilgan.components.pool import Pool, mean_of_stages
from anomalib_aprilgan.maps import few_shot_score, map_maxima, resize, score_bounds
from anomalib_aprilgan.pool import mutual_scores

SIDE, SHOTS = 224, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=str)
    parser.add_argument("--categories", nargs="+", default=["grass", "moon", "retina", "stars"])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    categories = ["moon"] if options.quick else options.categories
    print("image AUROC, pixel AUROC, pixel F1-max in %")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name in categories:
            for what, figures in measured(Path(folder) / "data", name, options.adapters, options.quick).items():
                print(f"{name:7} {what:26}", *(f"{100 * figure:5.1f}" for figure in figures), flush=True)


def measured(root: Path, category: str, adapters: str | None, quick: bool) -> dict[str, tuple[float, ...]]:
    data = DemoDataModule(root, category, num_workers=0)
    data.prepare_data()
    data.setup()
    lightning = AprilGan("demo", "demo", SIDE, adapters=adapters, class_name=category, visualizer=False)
    model, transform = lightning.model.eval(), lightning.reference_transform
    items = list(data.test_data)[:: 8 if quick else 1]
    masks = torch.stack([item.gt_mask for item in items]).bool()
    references = torch.stack([transform(data.train_data[index].image) for index in range(SHOTS)])
    parts = [model.encode(transform(item.image)[None]) for item in items]
    encoded = Encoded(*(stack(each) for each in zip(*parts, strict=True)))
    text, zero = model.score_parts(encoded, model.make_target(category))
    few = model.score_parts(encoded, model.make_target(category, references))[1]
    scores = mean_of_stages([mutual_scores([each]) for each in encoded.stages])
    maxima = map_maxima(resize(scores.unsqueeze(-1), SIDE)[:, 0])
    pool = Pool({}, encoded.embedding, encoded.stages, scores, maxima)
    pooled, pool_map = pool.rate(encoded, list(range(len(items))), SIDE)
    pool_map *= len(encoded.stages)
    both = (text + pooled) / 2
    return {
        "zero-shot": quality(text, zero, masks),
        "pool alone": quality(pooled, pool_map, masks),
        "zero-shot and pool": quality(both, zero + pool_map, masks),
        "4 references": quality(with_maximum(text, few), few, masks),
        "4 references and pool": quality(with_maximum(both, few + pool_map), few + pool_map, masks),
    }


def stack(parts: tuple) -> Tensor | list[Tensor]:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [torch.cat(stage) for stage in zip(*parts, strict=True)]


def with_maximum(text: Tensor, anomaly_maps: Tensor) -> Tensor:
    maxima = map_maxima(anomaly_maps)
    return few_shot_score(text, maxima, score_bounds(maxima, 0.0))


def quality(scores: Tensor, anomaly_maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    values, labels = anomaly_maps.flatten().numpy(), masks.flatten().numpy()
    precision, recall, _ = precision_recall_curve(labels, values)
    f1 = (2 * precision * recall / (precision + recall).clip(min=1e-9)).max()
    return roc_auc_score(masks.flatten(1).any(dim=1), scores), roc_auc_score(labels, values), f1


if __name__ == "__main__":
    main()
