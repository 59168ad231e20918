# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A report as a page: whole, without a network, whatever the files are called."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_aprilgan.comparison.report import page
from anomalib_aprilgan.comparison.report.scores import read_scores


class Images(HTMLParser):
    """Sources of images, and whatever else would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.images += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    rows = [f"/made/<script>{index},{index},9.5,{index > 9},$x^$" for index in range(20)]
    header = "image_path,raw_score,raw_threshold,gt_label,model"
    (tmp_path / "predictions.csv").write_text("\n".join([header, *rows]))
    first, second = page.write_report(page.report_of(read_scores(tmp_path), resamples=10), tmp_path)
    text = first.read_text(encoding="utf-8")
    parser = Images()
    parser.feed(text)
    assert len(parser.images) == 1 + 20
    for image in parser.images:
        kind, _, content = image.partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content, validate=True))).load()
    assert not {"script", "link", "iframe"} & parser.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(re.findall(rb"/Type /Page\b", second.read_bytes())) == 4


def test_names_of_all_kinds(tmp_path: Path) -> None:
    names = ["部品ü", "$x_{1}^", "\udcff", "a b"]
    text = "\n".join(["image_path,raw_score,raw_threshold", *(f"/made/{name}.png,{len(name)},2" for name in names)])
    (tmp_path / "predictions.csv").write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "labels.csv").write_text(
        f"image_path,label\n{names[0]}.png,ok\n{names[1]}.png,NG", encoding="utf-8-sig"
    )
    scores = read_scores(tmp_path, tmp_path / "labels.csv")
    np.testing.assert_array_equal(scores.labels, [0, 1, np.nan, np.nan])
    first, _ = page.write_report(page.report_of(scores, resamples=10), tmp_path)
    text = first.read_text(encoding="utf-8")
    assert all(f"made/{name}.png" in text for name in (*names[:2], "?", names[3]))
