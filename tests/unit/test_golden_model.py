# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The torch model against arrays computed by the authors' implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.maps import map_maxima
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.torch_model import AprilGanModel
from conftest import GOLDEN, GOLDEN_SIZE, read_pil

CATEGORIES = ("bolt", "fabric")


def close(actual: Tensor, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(np.asarray(expected)), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def model(tiny_arguments: dict) -> AprilGanModel:
    arguments = {name: tiny_arguments[name] for name in ("backbone", "pretrained", "image_size", "layers")}
    model = AprilGanModel(ClipEncoder(**arguments), PromptEnsemble.from_yaml(), GOLDEN_SIZE)
    model.adapters.load_file(tiny_arguments["adapters"])
    return model


def references(golden: dict, shots: int, category: str) -> Tensor | None:
    if shots == 0:
        return None
    paths = [path for path in golden[f"few{shots}/references"] if path.startswith(category)]
    assert len(paths) == shots
    return torch.stack([read_pil(GOLDEN / "dataset" / path) for path in paths])


@torch.no_grad()
def predict(model: AprilGanModel, golden: dict, images: Tensor, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Text scores, image scores and maps of all golden images, each category with its own class name."""
    outputs = [torch.empty(len(images)), torch.empty(len(images)), torch.empty(len(images), GOLDEN_SIZE, GOLDEN_SIZE)]
    for category in CATEGORIES:
        chosen = torch.from_numpy(golden["categories"] == category)
        model.setup(category, references(golden, shots, category))
        text, anomaly_map = model.score_parts(model.encode(images[chosen]), model.target)
        maxima = map_maxima(anomaly_map)
        model.set_score_bounds(maxima)
        for output, value in zip(outputs, (text, model.image_score(text, maxima), anomaly_map), strict=True):
            output[chosen] = value
    return tuple(outputs)


def test_encoder(model: AprilGanModel, golden: dict) -> None:
    embedding, stages = model.encoder(torch.from_numpy(golden["step/images"]))
    close(embedding, golden["step/image_embeddings"])
    for layer, tokens in zip((3, 6, 9, 12), stages, strict=True):
        close(tokens, golden[f"step/stage{layer}"][:, 1:])


@pytest.mark.parametrize("category", CATEGORIES)
def test_text_features(model: AprilGanModel, golden: dict, category: str) -> None:
    close(model.encode_class_name(category), golden[f"text_features/{category}"])


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_maps_and_text_scores(model: AprilGanModel, golden: dict, golden_images: Tensor, shots: int) -> None:
    text, _, anomaly_map = predict(model, golden, golden_images, shots)
    name = f"few{shots}" if shots else "zero"
    close(anomaly_map, golden[f"{name}/anomaly_maps"])
    close(text, golden[f"{name}/text_scores"])


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_image_metrics(model: AprilGanModel, golden: dict, golden_images: Tensor, shots: int) -> None:
    _, scores, _ = predict(model, golden, golden_images, shots)
    name = f"few{shots}" if shots else "zero"
    for index, category in enumerate(golden["metrics/categories"]):
        chosen = golden["categories"] == category
        labels, ranked = golden["labels"][chosen], scores.numpy()[chosen]
        precision, recall, _ = precision_recall_curve(labels, ranked)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert roc_auc_score(labels, ranked) == pytest.approx(golden[f"{name}/metrics/auroc_sp"][index], abs=1e-9)
        assert average_precision_score(labels, ranked) == pytest.approx(
            golden[f"{name}/metrics/ap_sp"][index], abs=1e-9
        )
        assert f1.max() == pytest.approx(golden[f"{name}/metrics/f1_sp"][index], abs=1e-9)


def test_training_step(model: AprilGanModel, golden: dict) -> None:
    images, masks = torch.from_numpy(golden["step/images"]), torch.from_numpy(golden["step/masks"]).float()
    categories = golden["categories"][golden["step/image_indices"]]
    features = torch.stack([torch.from_numpy(golden[f"text_features/{category}"]) for category in categories])
    model.adapters.load_file(GOLDEN / "adapters.pth")
    optimizer = torch.optim.Adam(model.adapters.parameters(), lr=1e-3, betas=(0.5, 0.999))
    focal, dice = model.stage_losses(images, masks, features)
    (focal + dice).sum().backward()
    optimizer.step()
    for name, actual in (("focal", focal), ("dice", dice), ("loss", (focal + dice).sum())):
        np.testing.assert_allclose(actual.detach(), golden[f"step/{name}"], rtol=1e-5)
    for name, parameter in model.adapters.named_parameters():
        for kind, actual in (("grad", parameter.grad), ("after", parameter)):
            expected = golden[f"step/{kind}/{name}"]
            np.testing.assert_allclose(actual.detach(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    model.adapters.load_file(GOLDEN / "adapters.pth")
