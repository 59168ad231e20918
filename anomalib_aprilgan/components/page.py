# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What the page shows, as HTML that holds pictures and table itself, so that no files of visitors are needed for it."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from anomalib_aprilgan.components.predictions import COLUMNS, NO_THRESHOLD, as_text

MIDDLE = 0.5  # the threshold among normalised scores
BY_HAND = "the slider"
SHOWN = {
    "image_path": "image",
    "pred_score": "score",
    "pred_label": "decision",
    "percentile": "percentile among the references",
}

Row = Mapping[str, Any]  # of the table of predictions


def moved(rows: Sequence[Row], threshold: float) -> Sequence[Row]:
    """The rows with decisions by another normalised threshold; at 0.5, by the one that the references gave.

    Args:
        rows: As the model has decided, over the theoretical range of scores.
        threshold: In [0, 1].
    """
    if threshold == MIDDLE:
        return rows
    raw = float(np.interp(threshold, (0, MIDDLE, 1), (0, rows[0]["raw_threshold"] or MIDDLE, 1)))
    by_hand = {"raw_threshold": raw, "threshold": threshold, "threshold_origin": BY_HAND}
    return [{**row, **by_hand, "pred_label": row["pred_score"] >= threshold} for row in rows]


def verdict(rows: Sequence[Row]) -> str:
    """Decision, score and threshold of one image, or how many of several are abnormal, in words."""
    first, alone = rows[0], len(rows) == 1
    if first["pred_label"] is None:
        return f"{NO_THRESHOLD}: " + (f"score {first['pred_score']:.3f}" if alone else f"{len(rows)} images by score")
    found = f"{sum(row['pred_label'] for row in rows)} of {len(rows)} abnormal"
    if alone:
        found = f"{_decision(first)}: score {first['pred_score']:.3f}"
    return f"{found}, threshold {first['threshold']:g} from {first['threshold_origin']}"


def _decision(row: Row) -> str:
    return NO_THRESHOLD if row["pred_label"] is None else "abnormal" if row["pred_label"] else "normal"


def pictures_html(pictures: Sequence[Image.Image]) -> str:
    """The pictures below each other."""
    return "".join(f'<img style="width:100%;margin-bottom:8px" src="{_jpeg(picture)}">' for picture in pictures)


def table_html(rows: Sequence[Row]) -> str:
    """The rows, the highest score first, and a link that saves all columns of them as ``predictions.csv``."""
    ordered = sorted(rows, key=lambda row: row["pred_score"], reverse=True)
    head = "".join(f"<th>{title}</th>" for title in SHOWN.values())
    body = "".join(f"<tr>{''.join(f'<td>{_cell(row, name)}</td>' for name in SHOWN)}</tr>" for row in ordered)
    table = as_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]).encode()
    link = f'<a id="table" download="predictions.csv" href="{_embedded("text/csv", table)}">Save predictions.csv</a>'
    return f"<table><tr>{head}</tr>{body}</table>{link}"


def _cell(row: Row, name: str) -> str:
    value = _decision(row) if name == "pred_label" else row[name]
    return f"{value:.3f}" if isinstance(value, float) else escape("" if value is None else str(value))


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=90)
    return _embedded("image/jpeg", content.getvalue())


def _embedded(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
