# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: images to an embedding and patch tokens, sentences to embeddings. The only import of open_clip."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory
from open_clip import model as clip_model
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_aprilgan.clip.weights import SkipInitialisation, read_state_dict, spread_token_rows

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
N_STAGES = 4
# Encoding the 420 prompts of one category at once would need more memory than the images do.
SENTENCES_PER_PASS = 128
# A small CLIP for demonstrations, which open_clip does not know; trained by tools/train_demo_clip.
DEMO = "demo"
DEMO_CONFIG = Path(__file__).with_name("demo_clip.json")
DEMO_WEIGHTS = Path(__file__).with_name("demo_clip.safetensors")


def clip_config(backbone: str) -> dict[str, Any]:
    """The open_clip configuration of ``backbone``: a registered architecture, a ``.json`` file or "demo".

    Raises:
        ValueError: If the name is unknown, the file is not an open_clip configuration, or the model is a CoCa.
    """
    if backbone == DEMO or backbone.endswith(".json"):
        config = _read_config(DEMO_CONFIG if backbone == DEMO else Path(backbone))
    else:
        config = open_clip.get_model_config(backbone)
        if config is None:
            msg = (
                f"Unknown `backbone` {backbone!r}: expected an open_clip architecture (open_clip.list_models() names "
                f"them), the path of an open_clip model configuration ending in .json, or {DEMO!r}."
            )
            raise ValueError(msg)
    if "multimodal_cfg" in config:
        msg = f"`backbone` {backbone!r} is a CoCa: its captioning tower has no place here. Use a CLIP of the same size."
        raise ValueError(msg)
    return config


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"`backbone` {str(path)!r} is not a file. Give the path of an open_clip model configuration."
        raise ValueError(msg)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("model_cfg", config)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - config.keys()
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        msg = f"`backbone` {str(path)!r} is not an open_clip model configuration: {error}."
        raise ValueError(msg) from error
    if missing:
        msg = f"`backbone` {str(path)!r} is not an open_clip model configuration: it has no {sorted(missing)}."
        raise ValueError(msg)
    return config


def image_statistics(backbone: str, pretrained: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel, for images in [0, 1], that the weights were trained with."""
    tag = open_clip.get_pretrained_cfg(backbone, pretrained) if pretrained else {}
    return tag.get("mean") or IMAGE_MEAN, tag.get("std") or IMAGE_STD


class ClipEncoder(nn.Module):
    """A frozen CLIP that also returns the patch tokens of some of its layers.

    The network is built from its configuration at the wanted image size and activation, because open_clip ignores
    both for the ``openai`` weights in some versions. Always in eval mode, never with gradients.

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo", a tiny ViT.
        pretrained: open_clip tag, path of a checkpoint (TorchScript, state dict or safetensors), "demo" for the
            weights of the backbone "demo", or None for random weights, which are the same every time, so that a
            checkpoint without them can be loaded again.
        image_size: Height and width of the images in pixels.
        layers: 1-based numbers of the tapped layers (blocks of a ViT, stages of a CNN). None: four equal stages.
        quick_gelu: Use the sigmoid approximation of GELU. Differs: OpenAI's weights were trained with it, but the
            authors' implementation runs them with plain GELU at sizes other than the native one.

    Raises:
        ValueError: If the backbone is unknown, a layer does not exist, the size does not fit the patches or the
            weights do not fit the backbone.
        FileNotFoundError: If the weights are neither a tag of the backbone nor a file.
        ConnectionError: If the weights of a tag are neither cached nor to be had.
    """

    clip: Any

    def __init__(
        self,
        backbone: str = "ViT-L-14-336",
        pretrained: str | None = "openai",
        image_size: int = 518,
        layers: Sequence[int] | None = None,
        quick_gelu: bool = False,
    ) -> None:
        super().__init__()
        config = clip_config(backbone)
        with nullcontext() if pretrained is None else SkipInitialisation():
            self.clip = _build(config, image_size, quick_gelu)
        self.layers = _checked_layers(layers, _depth(self.clip.visual), backbone)
        _check_image_size(self.clip.visual, image_size, backbone)
        if pretrained is not None:
            _load(self.clip, find_weights(backbone, pretrained), backbone)
        _resize_input(self.clip.visual, image_size)
        self.embed_dim: int = config["embed_dim"]
        self.widths = _widths(self.clip.visual, self.layers)
        self.quick_gelu: bool = quick_gelu or config.get("quick_gelu", False)
        self.text_config: dict[str, Any] = config["text_cfg"]
        self._tokenizer: Any = None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ClipEncoder:
        """Self, still in eval mode: batch statistics and dropout of a frozen network must not change."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The embedding (B, E) and, per stage, the patch tokens (B, N, D) of preprocessed images (B, 3, H, W).

        Tokens are taken after the block: raw, without final norm or projection; the class token is dropped. Those of
        a CNN are its feature maps, row by row.
        """
        visual = self.clip.visual
        if isinstance(visual, VisionTransformer):
            return _encode_vit(visual, images, self.layers)
        if isinstance(visual, ModifiedResNet):
            return _encode_resnet(visual, images, self.layers)
        return _encode_timm(visual, images, self.layers)

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """The embeddings (P, E), not normalised, of P sentences.

        Raises:
            LongSentenceError: If a sentence is longer than the text tower's context.
            RuntimeError: If the model was exported.
        """
        if not hasattr(self.clip, "encode_text"):
            msg = "This model was exported without its text tower: export again with another class name."
            raise RuntimeError(msg)
        device = next(self.clip.parameters()).device
        tokens = self._tokenize(sentences).to(device)
        return torch.cat([self.clip.encode_text(chunk) for chunk in tokens.split(SENTENCES_PER_PASS)])

    def _tokenize(self, sentences: Sequence[str]) -> Tensor:
        if self._tokenizer is None:
            self._tokenizer = make_tokenizer(self.text_config)
        check_lengths(sentences, self._tokenizer, self.text_config)
        return self._tokenizer(list(sentences))

    def fingerprint(self) -> str:
        """A short hash of the weights: the same for the same network, without reading all of it."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.clip.state_dict().items()):
            sample = tensor.detach().flatten()[:: max(1, tensor.numel() // 16)].float().cpu().numpy()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
        return digest.hexdigest()[:16]


class LongSentenceError(ValueError):
    """A sentence has more tokens than the text tower has room for."""

    def __init__(self, sentence: str, length: int, context: int) -> None:
        super().__init__(f"A prompt has {length} tokens, more than CLIP's {context}; shorten it: {sentence!r}.")
        self.sentence = sentence
        self.size = f"{length} tokens, more than CLIP's {context}"


def check_lengths(sentences: Sequence[str], tokenizer: Any, text_config: dict[str, Any]) -> None:
    """Check that open_clip's own tokenizer, which would cut them off in silence, has room for all sentences.

    Raises:
        LongSentenceError: If it has not.
    """
    context = text_config.get("context_length", 77)
    for sentence in sentences if hasattr(tokenizer, "encode") else ():
        length = len(tokenizer.encode(sentence)) + 2  # start and end of text
        if length > context:
            raise LongSentenceError(sentence, length, context)


def _build(config: dict[str, Any], image_size: int, quick_gelu: bool) -> nn.Module:
    """A CLIP at ``image_size`` with random weights that depend on nothing but the configuration."""
    config = dict(config)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    config["quick_gelu"] = quick_gelu or config.get("quick_gelu", False)
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": image_size}
    network = clip_model.CustomTextCLIP if custom_text else clip_model.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        clip = network(**config)
    if isinstance(clip.visual, VisionTransformer):
        _use_fused_attention(clip.visual)
    return clip


def _use_fused_attention(visual: VisionTransformer) -> None:
    """Have the blocks work on (N, B, D), as up to open_clip 2.26.0.

    With (B, N, D) and without autocast torch's MultiheadAttention takes a "fast path" that holds all N x N weights, and
    takes 1.4 times as long at N = 1370 as the fused attention that it uses otherwise.
    """
    attentions = [block.attn for block in visual.transformer.resblocks]
    if all(isinstance(attention, nn.MultiheadAttention) for attention in attentions):
        for layer in (visual.transformer, *attentions):
            layer.batch_first = False


def make_tokenizer(text_config: dict[str, Any]) -> Any:
    """The tokenizer of a text tower."""
    context = text_config.get("context_length", 77)
    kwargs = text_config.get("tokenizer_kwargs", {})
    name = text_config.get("hf_tokenizer_name")
    if name is not None:
        return open_clip.tokenizer.HFTokenizer(name, context_length=context, **kwargs)
    return open_clip.tokenizer.SimpleTokenizer(context_length=context, **kwargs)


def _depth(visual: Any) -> int:
    """Number of layers that can be tapped."""
    if isinstance(visual, VisionTransformer):
        return len(visual.transformer.resblocks)
    return 4 if isinstance(visual, ModifiedResNet) else len(visual.trunk.feature_info)


def _widths(visual: Any, layers: Sequence[int]) -> list[int]:
    """Channels D of each tapped layer."""
    if isinstance(visual, VisionTransformer):
        return [visual.transformer.width] * len(layers)
    if isinstance(visual, ModifiedResNet):
        return [getattr(visual, f"layer{layer}")[-1].conv3.out_channels for layer in layers]
    return [visual.trunk.feature_info[layer - 1]["num_chs"] for layer in layers]


def _checked_layers(layers: Sequence[int] | None, depth: int, backbone: str) -> list[int]:
    if layers is None:
        return sorted({max(1, depth * stage // N_STAGES) for stage in range(1, N_STAGES + 1)})
    layers = list(layers)
    if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
        msg = f"`layers` {layers} of {backbone!r}: expected different, rising numbers from 1 to {depth} (1-based)."
        raise ValueError(msg)
    return layers


def _check_image_size(visual: nn.Module, image_size: int, backbone: str) -> None:
    if isinstance(visual, ModifiedResNet):
        # The stem rounds odd sizes up, the attention pool was built for image_size // 32.
        if math.ceil(image_size / 2) // 16 != image_size // 32:
            msg = f"`image_size` {image_size} does not fit {backbone!r}: use a multiple of 32 pixels."
            raise ValueError(msg)
        return
    patch = _patch_size(visual)
    if patch and image_size % patch:
        near = max(patch, round(image_size / patch) * patch)
        msg = f"`image_size` {image_size} is not a multiple of {backbone!r}'s patch size {patch}; {near} would be."
        raise ValueError(msg)


def _patch_size(visual: Any) -> int | None:
    if isinstance(visual, VisionTransformer):
        return visual.patch_size[0]
    size = getattr(getattr(visual.trunk, "patch_embed", None), "patch_size", None)
    return size and size[0]


def _resize_input(visual: Any, image_size: int) -> None:
    """Bring a timm trunk, which open_clip builds at its native size, to ``image_size``."""
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "set_input_size"):
        visual.trunk.set_input_size(img_size=(image_size, image_size))


def find_weights(backbone: str, pretrained: str) -> Path:
    """The file that holds the weights ``pretrained``, a path, "demo" or a tag of open_clip, which downloads on need.

    Raises:
        FileNotFoundError: If it is neither a file nor a tag of this backbone.
        ConnectionError: If the download fails.
    """
    if backbone == pretrained == DEMO:
        return DEMO_WEIGHTS
    if Path(pretrained).is_file():
        return Path(pretrained)
    tag = open_clip.get_pretrained_cfg(backbone, pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(backbone)
        msg = f"`pretrained` {pretrained!r} is neither a file nor one of open_clip's tags for {backbone!r}: {tags}."
        raise FileNotFoundError(msg)
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # urllib's, huggingface_hub's and open_clip's own errors share no base class
        source = tag.get("url") or f"the Hugging Face repository {tag.get('hf_hub', '').strip('/')}"
        msg = (
            f"The weights {pretrained!r} of {backbone!r} are not in open_clip's cache and could not be downloaded "
            f"({type(error).__name__}: {error}). Fetch them on another machine from {source} and give the file's "
            "path as `pretrained`."
        )
        raise ConnectionError(msg) from error


def _load(clip: Any, path: Path, backbone: str) -> None:
    # OpenAI's files are in half precision, in which the positions must not be resized.
    state = {key: tensor.float() for key, tensor in read_state_dict(path).items()}
    try:
        spread_token_rows(state, clip)
        if hasattr(factory, "convert_state_dict"):  # open_clip 3.x: checkpoints of other projects
            state = factory.convert_state_dict(clip, state)
        if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
            state = clip_model.convert_to_custom_text_state_dict(state)
        if getattr(clip, "logit_bias", None) is not None:
            state.setdefault("logit_bias", torch.zeros_like(clip.logit_bias))
        clip_model.resize_pos_embed(state, clip)
        clip_model.resize_text_pos_embed(state, clip)
        _resize_attention_pool(state, clip.visual)
        clip.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError, AssertionError) as error:
        msg = f"The weights in {path} do not fit the backbone {backbone!r}: {error}"
        raise ValueError(msg) from error


def _resize_attention_pool(state: dict[str, Tensor], visual: nn.Module) -> None:
    """Resize the positions of a ModifiedResNet's attention pool as open_clip resizes those of a ViT."""
    key = "visual.attnpool.positional_embedding"
    if not isinstance(visual, ModifiedResNet) or key not in state:
        return
    mean, grid = state[key][:1], state[key][1:]
    new, old = (math.isqrt(len(positions) - 1) for positions in (visual.attnpool.positional_embedding, state[key]))
    if new != old:
        grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
        state[key] = torch.cat([mean, grid.flatten(2)[0].T])


def _encode_vit(visual: VisionTransformer, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
    x = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    x = visual.ln_pre(x)
    # open_clip's blocks work on (N, B, D) up to 2.26.0, afterwards on (B, N, D).
    batch_first = getattr(visual.transformer, "batch_first", False)
    x = x if batch_first else x.transpose(0, 1)
    stages = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        if number in layers:
            stages.append((x if batch_first else x.transpose(0, 1))[:, 1:])
    return _pool_vit(visual, x if batch_first else x.transpose(0, 1)), stages


def _pool_vit(visual: VisionTransformer, x: Tensor) -> Tensor:
    """The embedding (B, E) from the last block's tokens (B, 1 + N, D), in the way the configuration asks for."""
    if visual.attn_pool is not None:
        pooled, _ = visual._global_pool(visual.ln_post(visual.attn_pool(x)))  # noqa: SLF001
    elif visual.final_ln_after_pool:
        pooled = visual.ln_post(visual._global_pool(x)[0])  # noqa: SLF001
    else:
        pooled, _ = visual._global_pool(visual.ln_post(x))  # noqa: SLF001
    return pooled if visual.proj is None else pooled @ visual.proj


def _encode_resnet(visual: ModifiedResNet, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    x = visual.stem(images)
    stages = []
    for number in range(1, 5):
        x = getattr(visual, f"layer{number}")(x)
        if number in layers:
            stages.append(_tokens(x))
    return visual.attnpool(x), stages


def _encode_timm(visual: TimmModel, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    last, stages = visual.trunk.forward_intermediates(images, indices=[layer - 1 for layer in layers])
    return visual.head(visual.trunk.forward_head(last)), [_tokens(stage) for stage in stages]


def _tokens(feature_map: Tensor) -> Tensor:
    """Patch tokens (B, N, D) of a feature map (B, D, h, w)."""
    return feature_map.flatten(2).transpose(1, 2)
