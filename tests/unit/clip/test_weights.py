# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of CLIP in several kinds of files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.weights import find_weights, read_state_dict
from conftest import TINY_CLIP, TINY_RESNET
from small_clips import tiny


def test_the_same_weights_in_any_kind_of_file(clip_folder: Path, tmp_path: Path) -> None:
    state = torch.load(clip_folder / "tiny.pt")
    save_file(state, tmp_path / "tiny.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "nested.pth")
    torch.save(torch.load(clip_folder / "tiny.pt"), tmp_path / "plain.bin")
    expected = tiny(clip_folder).fingerprint()
    for name in ("tiny.safetensors", "nested.pth", "plain.bin"):
        assert tiny(clip_folder, pretrained=str(tmp_path / name)).fingerprint() == expected


class Archive(nn.Module):
    """A module with the state dict of a CLIP and the three extra entries of OpenAI's archives."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        for name, child in clip.named_children():
            self.add_module(name, child)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(clip, name))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(77))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_openais_torchscript_in_half_precision(clip_folder: Path, tmp_path: Path) -> None:
    clip = CLIP(**TINY_CLIP)
    clip.load_state_dict(torch.load(clip_folder / "tiny.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Archive(clip).half(), torch.zeros(1)).save(tmp_path / "openai.pt")
    half = {name: tensor.half().float() for name, tensor in torch.load(clip_folder / "tiny.pt").items()}
    torch.save(half, tmp_path / "half.pt")
    expected, images = tiny(clip_folder, pretrained=str(tmp_path / "half.pt")), torch.randn(1, 3, 70, 70)
    torch.testing.assert_close(
        tiny(clip_folder, pretrained=str(tmp_path / "openai.pt"))(images)[0], expected(images)[0]
    )


def test_positions_of_a_resnet_are_resized(clip_folder: Path, tmp_path: Path) -> None:
    torch.save(CLIP(**TINY_RESNET).state_dict(), tmp_path / "resnet.pt")
    encoder = ClipEncoder(str(clip_folder / "resnet.json"), str(tmp_path / "resnet.pt"), image_size=96)
    assert encoder.clip.visual.attnpool.positional_embedding.shape[0] == 1 + 3 * 3
    assert encoder(torch.randn(1, 3, 96, 96))[1][-1].shape == (1, 9, 256)


def test_weights_of_a_clip_with_its_text_tower_apart(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "apart.json").write_text(json.dumps({**TINY_CLIP, "custom_text": True}))
    apart = ClipEncoder(str(tmp_path / "apart.json"), str(clip_folder / "tiny.pt"), image_size=70)
    assert isinstance(apart.clip, CustomTextCLIP)
    torch.testing.assert_close(apart.encode_text(["a photo"]), tiny(clip_folder).encode_text(["a photo"]))


def test_a_tag_is_fetched_with_open_clips_own_function(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: asked.append(tag) or str(clip_folder / "tiny.pt"))
    assert find_weights("ViT-L-14-336", "openai") == clip_folder / "tiny.pt"
    assert asked == [open_clip.get_pretrained_cfg("ViT-L-14-336", "openai")]


def test_no_network_says_what_to_fetch_and_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_tag: dict) -> str:
        message = "Name or service not known"
        raise OSError(message)

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(
        ConnectionError, match=r"Name or service.*Fetch them .* from .*give the file's path as `pretrained`"
    ):
        ClipEncoder()


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"'openay' is neither a file nor one of open_clip's tags.*'openai'"):
        find_weights("ViT-L-14-336", "openay")


def test_weights_of_another_backbone(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny\.pt do not fit the backbone"):
        ClipEncoder(str(clip_folder / "resnet.json"), str(clip_folder / "tiny.pt"), image_size=64)


def test_a_file_without_weights(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match=r"page\.pt holds no weights"):
        read_state_dict(tmp_path / "page.pt")
