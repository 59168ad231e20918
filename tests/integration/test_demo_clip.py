# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The small CLIP in the package: its file, and what open_clip makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from packaging.version import Version
from safetensors.torch import load_file

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip.configuration import DEMO_ADAPTERS, DEMO_CONFIG
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.weights import DEMO_WEIGHTS, find_weights
from anomalib_aprilgan.data.released_adapters import shipped_adapters
from anomalib_aprilgan.prompts import PromptEnsemble
from conftest import ROOT


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return ClipEncoder("demo", "demo", 224)


def test_file_is_small() -> None:
    assert find_weights("demo", "demo") == DEMO_WEIGHTS
    assert DEMO_WEIGHTS.stat().st_size <= 8_000_000


@pytest.mark.parametrize("adapters", ["demo", "auto"])
def test_its_adapters_need_no_training_and_no_download(adapters: str) -> None:
    module = AprilGan("demo", "demo", 224, adapters=adapters, class_name="bolt")
    assert module.learning_type == LearningType.ZERO_SHOT
    shipped = torch.load(DEMO_ADAPTERS, weights_only=True)["trainable_linearlayer"]
    torch.testing.assert_close(dict(module.model.adapters.state_dict()), dict(shipped))
    assert module.hparams["adapters"] == adapters  # a checkpoint holds no path of this machine


def test_auto_means_them_only_with_its_own_weights_and_layers() -> None:
    assert shipped_adapters("auto", "demo", None, None) == "auto"
    assert shipped_adapters("auto", "demo", "demo", [3]) == "auto"
    assert shipped_adapters("auto", "ViT-B-32", "demo", None) == "auto"
    assert shipped_adapters(None, "demo", "demo", None) is None
    with pytest.raises(ValueError, match=r"other layers: they have 4 stages.* needs 1 stages"):
        AprilGan("demo", "demo", 224, layers=[3], adapters="demo")


def test_it_is_a_vit_with_four_stages_that_sees_small_defects(encoder: ClipEncoder) -> None:
    assert encoder.layers == [2, 4, 6, 8]
    assert encoder.clip.visual.patch_size == (8, 8)


def test_open_clip_makes_the_same_of_it(encoder: ClipEncoder) -> None:
    clip = CLIP(**json.loads(DEMO_CONFIG.read_text())).eval()
    state = {name: tensor.float() for name, tensor in load_file(DEMO_WEIGHTS).items()}
    rows = state.pop("token_embedding.rows")
    state["token_embedding.weight"] = torch.zeros(49408, rows.shape[1])
    state["token_embedding.weight"][state.pop("token_embedding.ids").long()] = rows
    clip.load_state_dict(state)
    images, prompts = torch.randn(2, 3, 224, 224), ["a photo of a damaged bottle.", "moon"]
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], clip.encode_image(images), atol=1e-5, rtol=1e-5)
        expected = clip.encode_text(SimpleTokenizer()(prompts))
    torch.testing.assert_close(encoder.encode_text(prompts), expected, atol=1e-5, rtol=1e-5)


def test_captions_had_every_token_of_the_ensemble() -> None:
    known = set(load_file(DEMO_WEIGHTS)["token_embedding.ids"].tolist())
    normal, abnormal = PromptEnsemble.from_yaml().prompts_about("object")
    assert set(SimpleTokenizer()([*normal, *abnormal]).unique().tolist()) <= known


def test_unknown_words_leave_the_states_apart(encoder: ClipEncoder) -> None:
    prompts = [f"a photo of a {state} flibbertigibbet." for state in ("flawless", "perfect", "damaged", "broken")]
    features = torch.nn.functional.normalize(encoder.encode_text(prompts), dim=-1)
    alike = features @ features.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + 0.1


def test_weights_of_another_backbone_are_not_meant() -> None:
    with pytest.raises(FileNotFoundError, match=r"'demo' is neither a file nor one of open_clip's tags for 'ViT-B-32'"):
        AprilGan("ViT-B-32", "demo", 224, adapters=None)


@pytest.mark.slow
@pytest.mark.skipif(Version(version("open_clip_torch")) < Version("3"), reason="the script needs open_clip 3")
def test_training_runs(tmp_path: Path) -> None:
    """A few steps of each phase write a file that is a CLIP."""
    output = tmp_path / "clip.safetensors"
    script = ROOT / "tools" / "train_demo_clip" / "train.py"
    command = [sys.executable, script, "--output", output, "--scale", "0.0003"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr
    trained, packaged = load_file(output), load_file(DEMO_WEIGHTS)
    assert trained.keys() == packaged.keys()
    # One step of captions uses fewer words.
    assert all(each.shape == packaged[name].shape for name, each in trained.items() if "token_embedding" not in name)
    assert all(each.isfinite().all() for each in trained.values())
    embedding, _ = ClipEncoder("demo", str(output), 224)(torch.randn(1, 3, 224, 224))
    assert embedding.isfinite().all()
