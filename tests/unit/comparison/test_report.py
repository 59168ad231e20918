# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Reports of tables that no run has made."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_aprilgan.comparison.grid import Job
from anomalib_aprilgan.comparison.image_scores import save_scores, score_rows, scores_path
from anomalib_aprilgan.comparison.report import page, pairs, runs
from anomalib_aprilgan.comparison.report.scores import Scores, read_scores
from anomalib_aprilgan.comparison.results import FILE, append_row
from made_rows import made_row

GOOD = np.linspace(0.1, 0.5, 20)
BAD = np.linspace(0.42, 0.9, 10)
HEADER = "image_path,raw_score,raw_threshold,pred_score,gt_label,model"


def write(folder: Path, lines: list[str], header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "predictions.csv"


def table(folder: Path, shift: float = 0, threshold: object = 0.45, model: str = "abc", truth: bool = True) -> Path:
    """20 good and 10 bad images; the paths tell no labels."""
    rows = [(f"/made/{index:02}.png", score, index >= 20) for index, score in enumerate([*GOOD, *BAD])]
    return write(folder, [f"{p},{s + shift},{threshold},0.5,{t if truth else ''},{model}" for p, s, t in rows])


def read(*arguments: object, **options: object) -> Scores:
    return read_scores(table(*arguments, **options))


def cells(report: page.Report, title: str) -> list[list[str]]:
    (rows,) = (made.rows for made in report.tables if made.title == title)
    return rows


def test_rates_and_thresholds(tmp_path: Path) -> None:
    report = page.report_of(read(tmp_path), resamples=50)
    assert report.facts[0] == "30 images: 20 good, 10 bad (by column gt_label)"
    assert report.facts[1:] == ["Model abc", "Threshold 0.45 (raw score)"]
    assert report.missing == []
    rows = {row[0]: row for row in cells(report, "At the threshold")}
    auroc = np.mean([[bad > good for good in GOOD] for bad in BAD])
    assert rows["image AUROC"][1] == f"{100 * auroc:.1f} %"
    assert rows["F1"][1] == f"{200 * 9 / (18 + 1 + 3):.1f} %"
    assert rows["false-alarm rate"][1::2] == ["15.0 %", "3 of 20"]
    assert rows["escape rate"][1::2] == ["10.0 %", "1 of 10"]
    at_rates = {
        row[0]: (row[2][:7], row[3][:7]) for row in cells(report, "False alarms and escapes at a false-alarm rate")
    }
    none = ("0 of 20", "2 of 10")
    assert at_rates == {
        "the threshold": ("3 of 20", "1 of 10"),
        "1 %": none,
        "2 %": none,
        "5 %": ("1 of 20", "2 of 10"),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"truth": False}, ["No labels: no false alarms, escapes and AUROC. Give --labels"]),
        ({"threshold": ""}, ["No threshold: no decisions"]),
        ({"threshold": "", "truth": False}, ["No labels", "No threshold"]),
    ],
)
def test_what_is_missing_is_said_and_the_rest_shown(tmp_path: Path, options: dict, words: list[str]) -> None:
    report = page.report_of(read(tmp_path, **options), resamples=10)
    assert all(sentence.startswith(word) for sentence, word in zip(report.missing, words, strict=True))
    assert list(report.figures) == ["Scores"]
    assert bool(report.tables) == options.get("truth", True)
    assert bool(report.pictures) == bool(options.get("threshold", True))
    assert len(page.write_report(report, tmp_path)) == 2


@pytest.mark.parametrize(("kind", "fact"), [("good", "False alarms: 3 of 4"), ("bad", "Escapes: 1 of 4")])
def test_images_of_one_kind_tell_one_rate(tmp_path: Path, kind: str, fact: str) -> None:
    rows = [f"{index}.png,{index},1,,{kind}," for index in range(4)]
    report = page.report_of(read_scores(write(tmp_path, rows)), resamples=10)
    assert report.facts[-1].startswith(fact)
    other = {
        "good": "No bad images: no AUROC, F1 and escapes.",
        "bad": "No good images: no AUROC, F1 and false alarms.",
    }
    assert report.missing == [other[kind]]
    assert not report.tables


def test_labels_of_folders(tmp_path: Path) -> None:
    names = ["a/good/1", "a/scratch/2", "a/dent/3", "a/4", "b/scratch/5"]
    scores = read_scores(write(tmp_path, [f"{name}.png,0.5" for name in names], "image_path,pred_score"))
    np.testing.assert_array_equal(scores.labels, [0, 1, 1, np.nan, np.nan])
    assert (scores.kind, scores.threshold, scores.labels_from) == ("normalised score", None, "names of folders")


def label(tmp_path: Path, text: str) -> Scores:
    names = ["a/x.png", "b/x.png", "b/y.png"]
    source = write(tmp_path, [f"/made/{name},0.5" for name in names], "image_path,pred_score")
    (tmp_path / "labels.csv").write_text(text)
    return read_scores(source, tmp_path / "labels.csv")


def test_labels_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = label(tmp_path, "image_path,label\na/x.png,good\n/made/b/x.png,Bad\nnowhere.png,1\n")
    np.testing.assert_array_equal(scores.labels, [0, 1, np.nan])
    assert "1 images are not in the table, such as 'nowhere.png'" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_path,label\nx.png,good\n", r"'x\.png' means several images"),
        ("image_path,label\na/x.png,good\na/x.png,bad\n", "has two labels"),
        ("image_path,label\ny.png,perhaps\n", "row 1: expected good or bad.*'perhaps'"),
        ("image_path,label\nz.png,good\n", r"no label of an image of the table, such as '/made/a/x\.png'"),
        ("image_path,label\ny.png,\n", "no label of an image"),
        ("path,label\ny.png,good\n", "lacks the column image_path: it has path, label"),
        ("image_path,label\n", "has no rows"),
        ("", "can't be read as a table"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label(tmp_path, text)


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("image_path,score", ["a,1"], "lacks the columns raw_score and pred_score"),
        ("image_path,pred_score", ["a,1", "a,2"], "'a' in several rows: it mixes runs"),
        ("image_path,pred_score", ["a,nan"], "row 1: expected a finite number, found 'nan'"),
        ("image_path,pred_score,threshold", ["a,1,0.5", "b,1,0.6"], "several values in the column threshold"),
        ("image_path,pred_score", [], "has no rows"),
    ],
)
def test_wrong_tables(tmp_path: Path, header: str, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores(write(tmp_path, lines, header))


def test_two_models(tmp_path: Path) -> None:
    first, second = read(tmp_path / "a"), read(tmp_path / "b", shift=3)
    report = page.report_of(first, second, resamples=20)
    rows = cells(report, "Two models on the same images")
    assert rows[0][1:3] == rows[1][1:3]
    assert rows[1][3:] == ["+0.0", "+0.0 to +0.0", "1"]
    strange = write(tmp_path / "c", ["/other.png,1,,,,"])
    with pytest.raises(ValueError, match="share no good or no bad image"):
        page.report_of(first, read_scores(strange), resamples=20)


@pytest.mark.parametrize(("shift", "word"), [(0.3, "are lower than"), (-0.3, "are higher than"), (0, "differ from")])
def test_drift_in_words(tmp_path: Path, shift: float, word: str) -> None:
    today = read(tmp_path / "a")
    (sentence,) = page.report_of(today, None, pairs.read_before(table(tmp_path / "b", shift)), 10).facts[3:]
    assert sentence.startswith("Drift: " if shift else "No drift is seen: ")
    assert f"the scores of today's good images {word} those of {tmp_path / 'b'}" in sentence
    assert "(20 and 20 scores, medians 0.3 and " in sentence


def test_drift_from_the_normal_images_of_a_checkpoint(tmp_path: Path) -> None:
    for name, scores in (("a.ckpt", [2.0] * 9), ("b.ckpt", [])):
        content = {"state_dict": {}, "anomalib_post_processor_config": {"normal_scores": scores}}
        torch.save(content, tmp_path / name)
    sentence = pairs.drifted(read(tmp_path), pairs.read_before(tmp_path / "a.ckpt"))
    assert "lower than those of the normal images of" in sentence
    with pytest.raises(ValueError, match=r"b\.ckpt holds no scores of normal images"):
        pairs.read_before(tmp_path / "b.ckpt")


def test_scores_of_other_models_tell_no_drift(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model abc\) do not compare with .* model xyz\): predict both"):
        pairs.drifted(read(tmp_path / "a"), pairs.read_before(table(tmp_path / "b", model="xyz")))


def test_doubtful_images_have_their_visualizations(tmp_path: Path) -> None:
    colors = {"left": (250, 0, 0), "right": (0, 250, 0)}
    for name, color in colors.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (900, 300), color).save(tmp_path / "images" / name / "x.png")
    Image.new("RGB", (40, 40), (0, 0, 250)).save(tmp_path / "y.jpg", quality=100)
    rows = [("/made/left/x.jpg", 0.4), ("/made/right/x.bmp", 0.6), (tmp_path / "y.jpg", 0.1), ("gone.png", 0.9)]
    source = write(tmp_path, [f"{path},{score},0.5" for path, score in rows], "image_path,raw_score,raw_threshold")
    pictures = page.report_of(read_scores(source), resamples=10).pictures
    bad, good = (pictures[f"Most doubtful of the images called {kind}"] for kind in ("bad", "good"))
    captions = [caption for _, caption in bad + good]
    assert captions == ["right/x.bmp: 0.6", "gone.png: 0.9", "left/x.jpg: 0.4", f"{tmp_path.name}/y.jpg: 0.1"]
    images = [Image.open(io.BytesIO(content)) for content, _ in bad + good]
    assert [image.size for image in images] == [(480, 160), (120, 120), (480, 160), (40, 40)]
    assert [image.getpixel((0, 0)) for image in images[::2]] == [colors["right"], colors["left"]]


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
    source = write(tmp_path, [f"/made/<script>{i},{s},0.3,,{s > 0.3},$x^$" for i, s in enumerate(GOOD)])
    first, second = page.write_report(page.report_of(read_scores(source), resamples=10), tmp_path)
    text = first.read_text(encoding="utf-8")
    parser = Images()
    parser.feed(text)
    assert len(parser.images) == 1 + len(GOOD)
    for image in parser.images:
        kind, _, content = image.partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content, validate=True))).load()
    assert not {"script", "link", "iframe"} & parser.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(re.findall(rb"/Type /Page\b", second.read_bytes())) == 4


def test_a_comparison(tmp_path: Path) -> None:
    truth = np.r_[np.zeros(20), np.ones(10)] == 1
    for model, scores in (("A", [*GOOD, *BAD]), ("B", [*BAD, *GOOD])):
        job = Job(model, "made", "bolt", 0, 0)
        append_row(tmp_path / FILE, made_row(job))
        save_scores(scores_path(tmp_path, job), score_rows([f"{n}.png" for n in range(30)], np.asarray(scores), truth))
    append_row(tmp_path / FILE, made_row(Job("C", "made", "bolt", 0, 0)))
    report = runs.report_of_comparison(tmp_path, 50)
    rows = cells(report, "made: bolt, 0-shot, seed 0")
    auroc = 100 * np.mean([[bad > good for good in GOOD] for bad in BAD])
    assert (rows[0][1], rows[1][0]) == (f"{auroc:.1f} %", "B")
    assert float(rows[1][5]) < 0.05
    assert report.missing == ["1 runs of an earlier version, which kept no scores of images"]
    assert len(page.write_report(report, tmp_path)) == 2
    (tmp_path / "old").mkdir()
    append_row(tmp_path / "old" / FILE, made_row(Job("C", "made", "bolt", 0, 0)))
    with pytest.raises(ValueError, match="holds no scores of images"):
        runs.report_of_comparison(tmp_path / "old")
