# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The encoder: ViT, ModifiedResNet and timm towers, weights in several files, and mistakes."""

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
from torch.nn import functional

from anomalib_aprilgan.clip.configuration import clip_config, image_statistics
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.weights import find_weights, read_state_dict
from conftest import TINY_CLIP, TINY_RESNET

TIMM = {
    # name: (image size, patch size or stride of the last stage, widths, pooling)
    "test_convnext": (64, 32, None, "avg"),
    "eva02_tiny_patch14_224": (56, 14, [192] * 4, "token"),
    "test_vit": (64, 16, [64] * 4, "token"),
    "test_vit3": (64, 16, [96] * 4, "map"),  # attention pooling, as in SigLIP
}


def timm_config(folder: Path, name: str) -> Path:
    vision = {"timm_model_name": name, "timm_pool": TIMM[name][3], "timm_proj": "linear", "image_size": 224}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TINY_CLIP["text_cfg"]}))
    return path


def tiny(clip_folder: Path, **kwargs: object) -> ClipEncoder:
    return ClipEncoder(
        str(clip_folder / "tiny.json"), **{"pretrained": str(clip_folder / "tiny.pt"), "image_size": 70, **kwargs}
    )


# --- towers ---


def test_vit_embedding_is_open_clips(clip_folder: Path) -> None:
    encoder, images = tiny(clip_folder, image_size=56), torch.randn(2, 3, 56, 56)
    clip = CLIP(**TINY_CLIP).eval()
    clip.load_state_dict(torch.load(clip_folder / "tiny.pt"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], clip.encode_image(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_vit_attention_is_fused(clip_folder: Path, monkeypatch: pytest.MonkeyPatch, grad: bool) -> None:
    encoder, calls = tiny(clip_folder), []
    fused = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(0) or fused(*args, **kwargs)
    )
    with torch.set_grad_enabled(grad):
        encoder(torch.randn(1, 3, 70, 70))
    assert len(calls) == TINY_CLIP["vision_cfg"]["layers"]


def test_resnet_stages_are_the_outputs_of_its_layers(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=64)
    assert encoder.layers == [1, 2, 3, 4]
    assert encoder.widths == [32, 64, 128, 256]
    images, seen = torch.randn(2, 3, 64, 64), {}
    for number in (1, 4):
        layer = getattr(encoder.clip.visual, f"layer{number}")
        layer.register_forward_hook(lambda _m, _i, output, number=number: seen.__setitem__(number, output))
    embedding, stages = encoder(images)
    torch.testing.assert_close(embedding, encoder.clip.encode_image(images))
    assert [tuple(tokens.shape) for tokens in stages] == [(2, 256, 32), (2, 64, 64), (2, 16, 128), (2, 4, 256)]
    for stage, number in ((0, 1), (3, 4)):
        torch.testing.assert_close(stages[stage].mT.reshape(seen[number].shape), seen[number])


def test_batch_norm_stays_in_eval_mode_during_training(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=64)
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", TIMM)
def test_timm_towers(tmp_path: Path, name: str) -> None:
    size, stride, widths, _ = TIMM[name]
    encoder = ClipEncoder(str(timm_config(tmp_path, name)), None, image_size=size)
    embedding, stages = encoder(torch.randn(2, 3, size, size))
    assert embedding.shape == (2, 16)
    assert len(stages) == len(encoder.layers)
    assert [tokens.shape[-1] for tokens in stages] == encoder.widths
    assert widths is None or encoder.widths == widths
    assert stages[-1].shape[1] == (size // stride) ** 2
    assert all(tokens.isfinite().all() for tokens in stages)


def test_timm_embedding_is_open_clips(tmp_path: Path) -> None:
    encoder, images = (
        ClipEncoder(str(timm_config(tmp_path, "test_vit")), None, image_size=64),
        torch.randn(2, 3, 64, 64),
    )
    torch.testing.assert_close(encoder(images)[0], encoder.clip.encode_image(images))


@pytest.mark.parametrize(("backbone", "size"), [("tiny.json", 56), ("resnet.json", 64)])
def test_a_batch_equals_one_by_one(clip_folder: Path, backbone: str, size: int) -> None:
    encoder, images = ClipEncoder(str(clip_folder / backbone), None, image_size=size), torch.randn(3, 3, size, size)
    embedding, stages = encoder(images)
    alone = [encoder(image.unsqueeze(0)) for image in images]
    torch.testing.assert_close(embedding, torch.cat([each[0] for each in alone]), atol=1e-5, rtol=1e-4)
    for stage, tokens in enumerate(stages):
        torch.testing.assert_close(tokens, torch.cat([each[1][stage] for each in alone]), atol=1e-5, rtol=1e-4)


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


# --- weights ---


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(clip_folder: Path) -> None:
    torch.manual_seed(1)
    first = tiny(clip_folder, pretrained=None)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert first.fingerprint() == tiny(clip_folder, pretrained=None).fingerprint() != tiny(clip_folder).fingerprint()


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


def test_statistics_are_the_tags(clip_folder: Path) -> None:
    assert image_statistics("ViT-B-16-SigLIP", "webli") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for pretrained in (None, "openai", str(clip_folder / "tiny.pt")):
        assert image_statistics("ViT-L-14-336", pretrained)[0][0] == pytest.approx(0.48145466)


# --- mistakes ---


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


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("ViT-XXL", "Unknown `backbone` 'ViT-XXL'"), ("no.json", "is not a file"), ("coca_ViT-L-14", "is a CoCa")],
)
def test_an_unknown_backbone(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_config(backbone)


@pytest.mark.parametrize(("content", "message"), [("{", "is not an open_clip"), ("[]", "is not"), ("{}", "it has no")])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        clip_config(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("layers", [[], [0, 3], [3, 13], [6, 3], [3, 3]])
def test_layers_out_of_range(clip_folder: Path, layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"`layers` .* from 1 to 12 \(1-based\)"):
        tiny(clip_folder, layers=layers)


def test_image_size_that_is_no_multiple_of_the_patch_size(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`image_size` 75 is not a multiple of .* patch size 14; 70 would be"):
        tiny(clip_folder, image_size=75)
    with pytest.raises(ValueError, match="use a multiple of 32"):
        ClipEncoder(str(clip_folder / "resnet.json"), None, image_size=63)
    with pytest.raises(ValueError, match="patch size 16"):
        ClipEncoder(str(timm_config(tmp_path, "test_vit")), None, image_size=70)


def test_weights_of_another_backbone(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny\.pt do not fit the backbone"):
        ClipEncoder(str(clip_folder / "resnet.json"), str(clip_folder / "tiny.pt"), image_size=64)


def test_a_file_without_weights(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match=r"page\.pt holds no weights"):
        read_state_dict(tmp_path / "page.pt")


def test_a_prompt_longer_than_the_context(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has 102 tokens, more than CLIP's 77"):
        tiny(clip_folder).encode_text(["photo " * 100])
