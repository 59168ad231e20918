# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Files of CLIP weights: which one, its tensors, and loading them into a network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import model
from safetensors.torch import load_file
from torch import Tensor

from anomalib_aprilgan.clip.configuration import DEMO, local_folder
from anomalib_aprilgan.compat.huggingface import without_retries_offline
from anomalib_aprilgan.compat.open_clip import convert_state_dict, resize_attention_pool

DEMO_WEIGHTS = Path(__file__).with_name("demo_clip.safetensors")

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # as open_clip names them in a folder
# Numbers that OpenAI's archives hold beside the weights.
NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}


def find_weights(backbone: str, pretrained: str) -> Path:
    """Return the file that holds the weights ``pretrained``; open_clip downloads those of a tag that it has not yet.

    Args:
        backbone: Architecture, path of a configuration, or "demo".
        pretrained: Path of a file, or of a folder as open_clip takes it after "local-dir:"; "demo" with the backbone of
            that name; or a tag of open_clip.

    Raises:
        FileNotFoundError: If it is neither a file nor a tag of this backbone.
        ConnectionError: If the download fails.
    """
    if backbone == pretrained == DEMO:
        return DEMO_WEIGHTS
    if Path(pretrained).is_file():
        return Path(pretrained)
    folder = local_folder(pretrained)
    if folder is not None:
        return _weights_in(folder)
    tag = open_clip.get_pretrained_cfg(backbone, pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(backbone)
        msg = f"`pretrained` {pretrained!r} is neither a file nor one of open_clip's tags for {backbone!r}: {tags}."
        raise FileNotFoundError(msg)
    with without_retries_offline() as reason:
        try:
            return Path(open_clip.download_pretrained(tag))
        except Exception as error:  # urllib's, huggingface_hub's and open_clip's own errors share no base class
            source = tag.get("url") or f"the Hugging Face repository {tag.get('hf_hub', '').strip('/')}"
            msg = (
                f"The weights {pretrained!r} of {backbone!r} are not in open_clip's cache and could not be downloaded "
                f"({reason or f'{type(error).__name__}: {error}'}). Fetch them on another machine from {source} and "
                "give the file's path as `pretrained`."
            )
            raise ConnectionError(msg) from error


def _weights_in(folder: Path) -> Path:
    found = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    if not found:
        msg = f"`pretrained` {str(folder)!r} is a folder without weights: expected one of {', '.join(WEIGHTS_FILES)}."
        raise FileNotFoundError(msg)
    return found[0]


def load_weights(clip: Any, path: Path, backbone: str) -> None:
    """Load a file of weights into a network, with the positions resized to its image size.

    Args:
        clip: The network, as open_clip builds it.
        path: The file.
        backbone: Name of the network, for messages.

    Raises:
        ValueError: If the file cannot be read or does not fit the network.
    """
    # OpenAI's files are in half precision, in which the positions must not be resized.
    state = {key: tensor.float() for key, tensor in read_state_dict(path).items()}
    try:
        _spread_token_rows(state, clip)
        state = convert_state_dict(state, clip)
        if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
            state = model.convert_to_custom_text_state_dict(state)
        if getattr(clip, "logit_bias", None) is not None:
            state.setdefault("logit_bias", torch.zeros_like(clip.logit_bias))
        model.resize_pos_embed(state, clip)
        model.resize_text_pos_embed(state, clip)
        resize_attention_pool(state, clip.visual)
        clip.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError, AssertionError) as error:
        msg = f"The weights in {path} do not fit the backbone {backbone!r}: {error}"
        raise ValueError(msg) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive, a (nested) state dict or a safetensors file; run none of its code.

    Raises:
        ValueError: If the file is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        return {key.removeprefix("module."): tensor for key, tensor in state.items() if key not in NO_WEIGHTS}
    except Exception as error:  # pickle, zip and safetensors raise errors of many kinds
        msg = f"{path} holds no weights that can be read ({type(error).__name__}: {error})."
        raise ValueError(msg) from error


def _spread_token_rows(state: dict[str, Tensor], clip: Any) -> None:
    """Complete the token embedding of a state dict that holds only its rows ``token_embedding.ids``.

    The demo's file leaves out tokens that its training never saw: 25 of 28 MB. They become zero, so that such a word
    says nothing.
    """
    if "token_embedding.ids" in state:
        ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows")
        embedding = torch.zeros(clip.token_embedding.weight.shape)
        embedding[ids] = rows
        state["token_embedding.weight"] = embedding


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())
