# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Files of CLIP weights, and building a network that is about to be filled with them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SkipInitialisation(TorchFunctionMode):
    """Leaves parameters as they are allocated: drawing numbers for a ViT-L, all to be overwritten, takes seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's result, or its untouched argument if it draws numbers."""
        del types
        if getattr(func, "__module__", None) == "torch.nn.init" or func in {Tensor.normal_, Tensor.uniform_}:
            return args[0] if args else (kwargs or {})["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, a (nested) state dict or a safetensors file, without running its code.

    Raises:
        ValueError: If the file is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            return _torchscript_tensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}
    except Exception as error:  # pickle, zip and safetensors raise errors of many kinds
        msg = f"{path} holds no weights that can be read ({type(error).__name__}: {error})."
        raise ValueError(msg) from error


def spread_token_rows(state: dict[str, Tensor], clip: Any) -> None:
    """Make the token embedding whole in a state dict that holds only its rows ``token_embedding.ids``.

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


def _torchscript_tensors(path: Path) -> dict[str, Tensor]:
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {
        key: value for key, value in state.items() if key not in {"input_resolution", "context_length", "vocab_size"}
    }
