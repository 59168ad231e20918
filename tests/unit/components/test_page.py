# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What the page shows of several images, and its slider."""

from __future__ import annotations

import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_aprilgan.app import Inspector
from anomalib_aprilgan.components.page import moved, table_html, verdict
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.predictions import COLUMNS
from conftest import BOLT

DEFECT = BOLT / "test" / "scratch" / "000.png"
REFERENCES = sorted((BOLT / "train" / "good").iterdir())[:2]


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector("demo", None, 112, adapters=None)


def test_several_images_share_references(inspector: Inspector) -> None:
    """Each is what it is alone."""
    images = [DEFECT, *REFERENCES]
    together = inspector.inspect_all(images, "bolt", REFERENCES)
    for path, (item, row) in zip(images, together, strict=True):
        ((alone, alone_row),) = inspector.inspect_all([path], "bolt", REFERENCES)
        assert row == alone_row
        assert torch.equal(item.anomaly_map, alone.anomaly_map)
    with pytest.raises(ValueError, match="at most 50 images, not 51"):
        inspector.inspect_all([DEFECT] * 51, "bolt")


def test_the_slider_decides(inspector: Inspector) -> None:
    """By normalised scores; the raw threshold follows. In the middle, what the references gave holds."""
    rows = [row for _, row in inspector.inspect_all([DEFECT, *REFERENCES], "bolt", REFERENCES)]
    assert moved(rows, 0.5) == rows
    post_processor = AprilGanPostProcessor()
    post_processor.assume_range(1.0)
    post_processor._image_threshold.fill_(rows[0]["raw_threshold"])
    for value in (0.0, 0.2, 0.7, 1.0):
        now = moved(rows, value)
        assert [row["pred_label"] for row in now] == [row["pred_score"] >= value for row in rows]
        raw = InferenceBatch(pred_score=torch.tensor([now[0]["raw_threshold"]]))
        assert float(post_processor(raw).pred_score) == pytest.approx(value, abs=1e-6)
        assert (
            verdict(now)
            == f"{sum(row['pred_label'] for row in now)} of 3 abnormal, threshold {value:g} from the slider"
        )
    (unknown,) = moved([inspector.inspect_all([DEFECT], "bolt")[0][1]], 0.5)
    assert (unknown["pred_label"], unknown["threshold_origin"]) == (None, "no threshold")


def test_names_of_files_are_text() -> None:
    row = dict.fromkeys(COLUMNS, None) | {"image_path": "<script>.png", "pred_score": 0.5}
    assert "<script>" not in table_html([row])
