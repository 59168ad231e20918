# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""SPADE against a naive nearest-neighbour loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anomalib_aprilgan.comparison.spade import Spade, SpadeModel, nearest_rows, smooth

LAYERS = ["layer1", "layer2", "layer4"]


def build(n_images: int, n_pixels: int) -> SpadeModel:
    torch.manual_seed(0)
    model = SpadeModel("resnet10t", LAYERS, False, n_images, n_pixels, sigma=1.0)
    model.train()
    model.extractor.eval()
    for part in torch.rand(5, 3, 32, 32, generator=torch.manual_seed(1)).split(2):
        model(part)
    model.fill()
    return model.eval()


def naive(model: SpadeModel, image: torch.Tensor, n_images: int, n_pixels: int) -> tuple[float, torch.Tensor]:
    """Score and map before resizing and smoothing (h, w) of one image, by loops over images and pixels."""
    normal = torch.rand(5, 3, 32, 32, generator=torch.manual_seed(1))
    features = [model.extractor(each.unsqueeze(0)) for each in (image, *normal)]
    pooled = [each["layer4"].mean(dim=(2, 3))[0] for each in features]
    squared = [((pooled[0] - other) ** 2).sum().item() for other in pooled[1:]]
    nearest = sorted(range(5), key=lambda index: squared[index])[:n_images]
    score = float(np.mean([squared[index] for index in nearest]))

    def pixels(each: dict) -> torch.Tensor:
        size = each["layer1"].shape[-2:]
        resized = F.interpolate(each["layer2"], size=size, mode="bilinear", align_corners=False)
        return torch.cat([each["layer1"], resized], dim=1)[0]

    query, gallery = pixels(features[0]), [pixels(features[1 + index]) for index in nearest]
    result = torch.empty(query.shape[1:])
    for y in range(query.shape[1]):
        for x in range(query.shape[2]):
            distances = torch.cat([((each - query[:, y, x, None, None]) ** 2).sum(0).flatten() for each in gallery])
            result[y, x] = distances.sort().values[:n_pixels].mean()
    return score, result


@torch.no_grad()
@pytest.mark.parametrize(("n_images", "n_pixels"), [(1, 1), (3, 2), (50, 1)])
def test_equals_naive_loop(n_images: int, n_pixels: int) -> None:
    model = build(n_images, n_pixels)
    images = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(2))
    output = model(images)
    for image, score, anomaly_map in zip(images, output.pred_score, output.anomaly_map, strict=True):
        expected, small = naive(model, image, n_images, n_pixels)
        assert score.item() == pytest.approx(expected, rel=1e-4)
        resized = F.interpolate(small[None, None], size=(32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(anomaly_map, smooth(resized, 1.0)[0, 0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_normal_image_of_the_training_has_no_distance() -> None:
    model = build(1, 1)
    image = torch.rand(5, 3, 32, 32, generator=torch.manual_seed(1))[:1]
    output = model(image)
    strange = model(1 - image)
    assert output.anomaly_map.max() < 1e-2 * strange.anomaly_map.max()
    assert output.pred_score < 1e-2 * strange.pred_score


def test_nearest_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, rows = torch.rand(7, 4), torch.rand(9, 4)
    whole = nearest_rows(queries, rows, 3)
    monkeypatch.setattr("anomalib_aprilgan.comparison.spade.DISTANCES_PER_PASS", 18)
    for one, other in zip(whole, nearest_rows(queries, rows, 3), strict=True):
        torch.testing.assert_close(one, other)


def test_no_training_images() -> None:
    with pytest.raises(ValueError, match="SPADE has seen no training images"):
        SpadeModel("resnet10t", LAYERS, False, 1, 1, 1.0).fill()


def test_checkpoint_brings_the_gallery() -> None:
    model, other = build(2, 1), SpadeModel("resnet10t", LAYERS, False, 2, 1, 1.0).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(other(images).anomaly_map, model(images).anomaly_map)


def test_default_components() -> None:
    model = Spade("resnet10t", pre_trained=False, image_size=64)
    assert model.pre_processor.transform(torch.rand(3, 50, 40)).shape == (3, 64, 64)
    assert model.learning_type.value == "one_class"
