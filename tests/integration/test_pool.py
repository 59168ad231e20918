# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A pool in anomalib's runs: the authors' arrays, what is added to text and references, folders, files, refusals."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.components import pool as components
from anomalib_aprilgan.maps import map_maxima, resize
from anomalib_aprilgan.pool import mutual_scores, smooth_scores
from bad_files import write_bad
from conftest import BOLT, DATASET, GOLDEN, Engines, Models, golden_data

RAW = {"post_processor": False, "class_name": "bolt"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The goldens' nine test images of bolts."""
    return Path(shutil.copytree(BOLT / "test", tmp_path / "bolts"))


def predicted(predictions: list) -> dict[str, tuple[Tensor, Tensor]]:
    """Score and map of each image, by the end of its path."""
    return {
        "/".join(Path(path).parts[-2:]): (score, anomaly_map)
        for batch in predictions
        for path, score, anomaly_map in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True)
    }


def test_a_pool_alone_equals_the_authors(make_model: Models, engine: Engines) -> None:
    """Without adapters; their scores are scaled by the pool's minimum and maximum, their maps by the patches'."""
    with np.load(GOLDEN / "pool.npz") as golden:
        names = [str(path).removeprefix("bolt/test/") for path in golden["bolt/image_paths"]]
        patches = sum(golden[f"bolt/scores_r{r}"].mean(axis=0) for r in (1, 3, 5)) / 3
        maps, scores = golden["bolt/anomaly_maps"], golden["bolt/scores_k1_2_3"]
    found = predicted(engine().predict(make_model(adapters=None, pool=True, **RAW), data_path=BOLT / "test"))
    assert len(found) == len(names)
    for name, score, anomaly_map in zip(names, scores, (maps - patches.min()) / np.ptp(patches), strict=True):
        assert found[name][0].item() == pytest.approx(score, abs=1e-5)
        torch.testing.assert_close(found[name][1], torch.from_numpy(4 * anomaly_map), atol=1e-4, rtol=0)
