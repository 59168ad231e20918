# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What image embeddings of references, or of a pool, are worth on MVTec AD: AUROC of images, mean over categories.

    python tools/embedding_scores.py mvtecad_embeddings.npz

The file holds for each category "CATEGORY/labels" (B,), True where abnormal, "CATEGORY/embeddings" (B, E) of all test
images, and "CATEGORY/text_features" (2, E), normal and abnormal. The authors of MuSc (arXiv:2401.16753) publish such
embeddings by OpenAI's ViT-L-14-336 at 518 pixels in their repository (mvtec_ad_cls.dat); text features of the paper's
prompts are in the repository eriche2016/VAND-APRIL-GAN-v3. Embeddings of training images are not published, so that
references are normal test images, which are then left out of the test.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomalib_aprilgan.maps import embedding_score, text_score
from anomalib_aprilgan.memory import nearest_distance
from anomalib_aprilgan.pool import NEAREST, mean_distance

SHOTS, SEEDS = (1, 2, 4, 8), range(5)
Category = tuple[np.ndarray, Tensor, Tensor]  # labels, embeddings, text scores
Scores = tuple[Tensor, Tensor]  # by the text, by the embeddings


def main() -> None:
    """Print a line for each number of references, and one for the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    categories = read(parser.parse_args().file)
    print(f"{'':14}{'text':>8}{'embeddings':>12}{'both':>8}")
    for shots in SHOTS:
        show(f"{shots} references", [few_shot(*each, shots, seed) for each in categories for seed in SEEDS])
    show("pool", [pool(*each) for each in categories])


def read(path: Path) -> list[Category]:
    """The categories in the file."""
    with np.load(path, allow_pickle=False) as arrays:
        names = sorted(name.removesuffix("/labels") for name in arrays if name.endswith("/labels"))
        return [category(lambda part, name=name: arrays[f"{name}/{part}"]) for name in names]


def category(part: Callable[[str], np.ndarray]) -> Category:
    """One category, whose arrays a function gives."""
    embeddings, features = (torch.from_numpy(part(name)).float() for name in ("embeddings", "text_features"))
    return part("labels").astype(bool), embeddings, text_score(embeddings, features)


def few_shot(labels: np.ndarray, embeddings: Tensor, text: Tensor, shots: int, seed: int) -> tuple[np.ndarray, Scores]:
    """Labels and scores of the images that are not references."""
    references = np.random.default_rng(seed).choice(np.flatnonzero(~labels), shots, replace=False)
    tested = np.setdiff1d(np.arange(len(labels)), references)
    bank = torch.nn.functional.normalize(embeddings[references], dim=-1)
    distance = nearest_distance(embeddings[tested].unsqueeze(1), bank)[:, 0]
    return labels[tested], (text[tested], embedding_score(distance))


def pool(labels: np.ndarray, embeddings: Tensor, text: Tensor) -> tuple[np.ndarray, Scores]:
    """Labels and scores of all images by each other."""
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    cosines = (unit @ unit.mT).fill_diagonal_(-torch.inf)
    return labels, (text, embedding_score(mean_distance(cosines, NEAREST)))


def show(name: str, results: list[tuple[np.ndarray, Scores]]) -> None:
    """Print the means over categories and draws."""
    kinds = [[roc_auc_score(labels, kind) for kind in (text, own, text + own)] for labels, (text, own) in results]
    text, own, both = 100 * np.mean(kinds, axis=0)
    print(f"{name:14}{text:8.1f}{own:12.1f}{both:8.1f}")


if __name__ == "__main__":
    main()
