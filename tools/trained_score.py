# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What an image score that is trained with labels would be worth beside the text score: zero-shot image AUROC in %.

    pip install "anomalib-aprilgan[realdata]" scikit-learn
    python tools/trained_score.py

A logistic regression of the small CLIP's mean tokens of each stage, of its image embedding, or of both is fitted to the
labels of five of the demo's categories, and tested on the other four, on solar cells and on textile. Rows hold the
text score, the regression alone, and the sum of both, each scaled to a standard deviation of 1 in the category.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import normalize

from anomalib_aprilgan import AprilGan, DemoDataModule, ElpvDataModule, TextileDataModule

TRAIN, TEST = ("brick", "coins", "gravel", "page", "tissue"), ("grass", "moon", "retina", "stars")
INPUTS = {"mean tokens": ["tokens"], "embedding": ["embedding"], "both": ["tokens", "embedding"]}
INVERSE_PENALTIES = (0.01, 0.1, 1.0)


class Images(NamedTuple):
    """Mean tokens of all stages (B, D), embeddings (B, E), text scores (B,) and labels (B,) of a category."""

    tokens: NDArray
    embedding: NDArray
    text: NDArray
    labels: NDArray

    def inputs(self, names: list[str]) -> NDArray:
        """What the regression gets to see."""
        return np.concatenate([getattr(self, name) for name in names], axis=1)


@torch.no_grad()
def encode(model: AprilGan, datamodule: AnomalibDataModule) -> Images:
    """All test images of a category."""
    datamodule.prepare_data()
    datamodule.setup()
    model.model.setup("object")
    found = []
    for batch in datamodule.test_dataloader():
        encoded = model.model.encode(model.pre_processor.transform(batch.image))
        tokens = torch.cat([normalize(stage.mean(dim=1), dim=-1) for stage in encoded.stages], dim=1)
        scores, _ = model.model.score(encoded)
        found.append((tokens, normalize(encoded.embedding, dim=-1), scores, batch.gt_label))
    return Images(*(torch.cat(parts).float().numpy() for parts in zip(*found, strict=True)))


def show(name: str, scores: dict[str, NDArray], tests: dict[str, Images]) -> None:
    """Print the AUROC of each category."""
    values = [100 * roc_auc_score(tests[category].labels, scores[category]) for category in tests]
    print(f"{name:28}" + "".join(f"{value:9.1f}" for value in values), flush=True)


def scaled(scores: NDArray) -> NDArray:
    """Scores with mean 0 and standard deviation 1."""
    return (scores - scores.mean()) / scores.std()


def main() -> None:
    """Print a line for the text score, and two for each regression."""
    model = AprilGan("demo", "demo", 224, adapters="demo").eval()
    train = [encode(model, DemoDataModule(category=name, num_workers=0)) for name in TRAIN]
    tests = {name: encode(model, DemoDataModule(category=name, num_workers=0)) for name in TEST}
    tests |= {kind: encode(model, ElpvDataModule(category=kind, num_workers=0)) for kind in ("mono", "poly")}
    tests["textile"] = encode(model, TextileDataModule(num_workers=0))
    print(" " * 28 + "".join(f"{name:>9}" for name in tests))
    show("text", {name: images.text for name, images in tests.items()}, tests)
    labels = np.concatenate([images.labels for images in train])
    for name, inputs in INPUTS.items():
        for inverse_penalty in INVERSE_PENALTIES:
            regression = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000))
            regression.fit(np.concatenate([images.inputs(inputs) for images in train]), labels)
            own = {category: regression.decision_function(images.inputs(inputs)) for category, images in tests.items()}
            both = {category: scaled(own[category]) + scaled(images.text) for category, images in tests.items()}
            show(f"{name}, C = {inverse_penalty:g}", own, tests)
            show("  and text", both, tests)


if __name__ == "__main__":
    main()
