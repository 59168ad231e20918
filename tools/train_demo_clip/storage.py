# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The file of weights: half precision, and of the token embedding only the rows of tokens that captions had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def save(state: dict[str, Tensor], tokens: Sequence[int], path: Path) -> None:
    """Write the state dict of a CLIP whose captions had these tokens."""
    state = {name: tensor.detach() for name, tensor in state.items() if name != "attn_mask"}
    ids = torch.tensor(tokens)
    rows = state.pop("token_embedding.weight")[ids]
    halves = {name: tensor.half().contiguous() for name, tensor in state.items()}
    halves["token_embedding.rows"] = rows.half().contiguous()
    save_file({**halves, "token_embedding.ids": ids.int()}, path)
