# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""One linear adapter per encoder stage, from patch tokens to the joint space: the layers, their files, their losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anomalib_aprilgan.safe_io import read_torch

PREFIX_IN_CHECKPOINT = "model.adapters."
SMOOTH = 1e-5


class StageAdapters(nn.Module):
    """A linear layer with bias per stage (arXiv:2305.17382, section 2.1).

    Parameters are named as the authors name them: fc.0.weight.

    Args:
        widths: Width D of each stage.
        embed_dim: Width E of the joint space.
    """

    def __init__(self, widths: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(width, embed_dim) for width in widths])

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Per stage, the patch tokens (B, N, E) in the joint space of tokens (B, N, D)."""
        return [layer(tokens) for layer, tokens in zip(self.fc, stages, strict=True)]

    def load_file(self, path: str | Path) -> None:
        """Load the authors' ``.pth``, or the adapters out of a checkpoint of AprilGan.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds no adapters, those of another backbone, or such that are not numbers.
        """
        state = read_adapters(path)
        found, wanted = _shapes(state), _shapes(self.state_dict())
        if found != wanted:
            msg = (
                f"The adapters in {path} are for another backbone or other layers: they have {found}, "
                f"this model needs {wanted}. Train adapters for this backbone (`adapters=None`) or choose another file."
            )
            raise ValueError(msg)
        if not all(tensor.isfinite().all() for tensor in state.values()):
            msg = f"The adapters in {path} are not all finite numbers: their training went wrong. Choose another file."
            raise ValueError(msg)
        self.load_state_dict(state)


def read_adapters(path: str | Path) -> dict[str, Tensor]:
    """The adapters' parameters in a file of the authors or a checkpoint of AprilGan, by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file can't be read, would run code, or holds no adapters.
    """
    if not Path(path).is_file():
        msg = (
            f"`adapters` {str(path)!r} is not a file. Use 'auto', 'mvtecad', 'visa', the path of the authors' .pth or "
            "of a checkpoint of AprilGan, or None to train new ones."
        )
        raise FileNotFoundError(msg)
    state = _select_adapters(read_torch(path))
    if not state:
        msg = f"{path} holds no adapters: expected the authors' 'trainable_linearlayer' or a checkpoint of AprilGan."
        raise ValueError(msg)
    return state


def _select_adapters(content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    if "trainable_linearlayer" in content:
        return content["trainable_linearlayer"]
    state = content.get("state_dict", {})
    return {
        key.removeprefix(PREFIX_IN_CHECKPOINT): value for key, value in state.items() if PREFIX_IN_CHECKPOINT in key
    }


def _shapes(state: dict[str, Tensor]) -> str:
    """The stages' shapes in words, such as "4 stages: 1024 to 768"."""
    weights = [tensor for name, tensor in sorted(state.items()) if name.endswith("weight")]
    widths = [f"{tensor.shape[1]} to {tensor.shape[0]}" for tensor in weights]
    same = len(set(widths)) == 1
    return f"{len(widths)} stages, " + (widths[0] + " each" if same else ", ".join(widths))


def focal_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Focal loss with exponent 2, a scalar (arXiv:2305.17382, section 2.1).

    Args:
        probabilities: Of normal and abnormal, (B, 2, H, W) in [0, 1].
        masks: 1 where abnormal, else 0, (B, H, W).
    """
    one_hot = torch.stack([1 - masks, masks], dim=1).clamp(SMOOTH, 1 - SMOOTH)
    p_true = (one_hot * probabilities).sum(dim=1) + SMOOTH
    return -((1 - p_true) ** 2 * p_true.log()).mean()


def dice_loss(probability: Tensor, masks: Tensor) -> Tensor:
    """1 - mean over images of the smoothed Dice coefficient, a scalar in [0, 1].

    Args:
        probability: Of abnormal, (B, H, W) in [0, 1].
        masks: 1 where abnormal, else 0, (B, H, W).
    """
    overlap = (probability * masks).sum(dim=(-2, -1))
    size = probability.sum(dim=(-2, -1)) + masks.sum(dim=(-2, -1))
    return 1 - ((2 * overlap + 1) / (size + 1)).mean()
