# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""``aprilgan prompts``: prompts, their length, and how probable the states are for images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from anomalib_aprilgan import AprilGan, cli
from anomalib_aprilgan.clip.prompt_probabilities import state_probabilities
from conftest import GOLDEN, GOLDEN_SIZE

IMAGES = GOLDEN / "dataset" / "bolt" / "test" / "good"


@pytest.fixture
def aprilgan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs ``aprilgan ...`` and returns what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["aprilgan", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return run


def test_prompts_are_printed(aprilgan: Callable[..., str]) -> None:
    lines = aprilgan("prompts", "--class_name=metal bracket").splitlines()
    assert lines[0] == "245 sentences about a normal metal bracket:"
    assert lines[246] == "175 sentences about an abnormal metal bracket:"
    assert lines[247] == "  a bad photo of a damaged metal bracket."
    assert len(lines) == 245 + 175 + 2


def test_too_long_prompts_are_named(aprilgan: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        f"normal_states: ['{{}}']\nabnormal_states: ['bad {{}}']\ntemplates: ['a {{}}', '{'very ' * 80}{{}}']"
    )
    with pytest.raises(
        SystemExit, match=r"`templates`, entry 2 \(line 3\) about 'nut' has 8\d tokens, more than CLIP's 77"
    ):
        aprilgan("prompts", "--class_name=nut", f"--prompts={path}")
    with pytest.raises(SystemExit, match=r"`normal_states`, entry 1.* about 'word word .{50}\.\.\.' has"):
        aprilgan("prompts", f"--class_name={'word ' * 300}")


def test_an_empty_class_name(aprilgan: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match="`class_name` must be a word"):
        aprilgan("prompts", "--class_name= ")


@pytest.mark.usefixtures("_no_log")
def test_states_of_images_are_printed(aprilgan: Callable[..., str], tiny_arguments: dict) -> None:
    arguments = [f"--{name}={tiny_arguments[name]}" for name in ("backbone", "pretrained", "image_size")]
    lines = aprilgan("prompts", "--class_name=bolt", f'--images=["{IMAGES}"]', *arguments).splitlines()
    assert len(lines) == 1 + len(list(IMAGES.iterdir()))
    assert lines[1].endswith("000.png")
    assert lines[1].count("%") == 4
    assert "bolt" in lines[1]


def test_missing_images_are_named(aprilgan: Callable[..., str], tiny_arguments: dict) -> None:
    with pytest.raises(SystemExit, match=r"error: .*nothing\.png"):
        aprilgan("prompts", "--class_name=bolt", '--images=["nothing.png"]', f"--backbone={tiny_arguments['backbone']}")


@pytest.mark.slow
def test_state_probabilities_equal_a_naive_loop(tiny_arguments: dict) -> None:
    model = AprilGan(**tiny_arguments).model
    model.setup("bolt")
    images = torch.randn(2, 3, GOLDEN_SIZE, GOLDEN_SIZE)
    found = state_probabilities(model.encoder, model.prompts, "bolt", images)
    for image, probabilities in zip(images, found, strict=True):
        embedding = F.normalize(model.encoder(image.unsqueeze(0))[0][0], dim=0)
        logits = {}
        for state in [*model.prompts.normal_states, *model.prompts.abnormal_states]:
            name = state.replace("{}", "bolt")
            rows = [model.encoder.encode_text([text.replace("{}", name)])[0] for text in model.prompts.templates]
            mean = sum(row / row.norm() for row in rows)
            logits[name] = 100 * float(embedding @ mean / mean.norm())
        total = sum(torch.tensor(list(logits.values())).exp())
        for name, probability in probabilities.states.items():
            assert probability == pytest.approx(float(torch.tensor(logits[name]).exp() / total), rel=1e-2)
        assert probabilities.text_score == pytest.approx(float(model(image.unsqueeze(0)).pred_score), abs=1e-6)
        assert list(probabilities.states.values()) == sorted(probabilities.states.values(), reverse=True)
