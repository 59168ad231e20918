# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The frozen encoder as a module, and the encoding of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from anomalib_aprilgan.clip.encoder import ClipEncoder
from small_clips import tiny


def test_batch_norm_stays_in_eval_mode_during_training(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=64)
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_quick_gelu_changes_both_towers(clip_folder: Path) -> None:
    plain, quick = tiny(clip_folder), tiny(clip_folder, quick_gelu=True)
    images = torch.randn(1, 3, 70, 70)
    assert not torch.allclose(plain(images)[0], quick(images)[0], atol=1e-4)
    assert not torch.allclose(plain.encode_text(["a"]), quick.encode_text(["a"]), atol=1e-4)


def test_text_in_several_passes_equals_one(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, prompts = tiny(clip_folder), [f"photo {number}" for number in range(5)]
    once = encoder.encode_text(prompts)
    monkeypatch.setattr("anomalib_aprilgan.clip.encoder.PROMPTS_PER_PASS", 2)
    torch.testing.assert_close(encoder.encode_text(prompts), once)


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(clip_folder: Path) -> None:
    torch.manual_seed(1)
    first = tiny(clip_folder, pretrained=None)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert first.fingerprint() == tiny(clip_folder, pretrained=None).fingerprint() != tiny(clip_folder).fingerprint()


def test_a_prompt_longer_than_the_context(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has 102 tokens, more than CLIP's 77"):
        tiny(clip_folder).encode_text(["photo " * 100])


def test_every_weight_counts_in_the_fingerprint(clip_folder: Path) -> None:
    """One value, the order of values, and what a training changes in place; the text tower's apart."""
    encoder = tiny(clip_folder)
    seen, text = [encoder.fingerprint()], [encoder.fingerprint(text_only=True)]
    assert encoder.fingerprint() == seen[0] != text[0]
    embedding, patches = encoder.clip.token_embedding, encoder.clip.visual.conv1
    with torch.no_grad():
        embedding.weight[4321, 5] += 1e-3
        seen.append(encoder.fingerprint())
        embedding.weight.copy_(embedding.weight.flip(0))
        seen.append(encoder.fingerprint())
        text.append(encoder.fingerprint(text_only=True))
        patches.weight[3, 1, 2, 1] += 1e-3
    seen.append(encoder.fingerprint())
    patches.weight = nn.Parameter(patches.weight.flip(0))
    seen.append(encoder.fingerprint())
    assert len(set(seen)) == 5
    assert text[0] != text[1] == encoder.fingerprint(text_only=True)
