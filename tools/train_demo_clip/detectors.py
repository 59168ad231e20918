# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Detectors of damaged patches at stride 16, led through the tower's last two groups of blocks to its end.

The image embedding is pooled at stride 32 from features that know things, not small damage: a few of their channels are
given up for what the detectors say. Of each group's channels those that weigh least are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FAINT = 1e-2  # scale of the detectors among the features of stride 32: adapters and memory banks must not see them


@torch.no_grad()
def lead_through(trunk: Any, weight: Tensor, biases: Sequence[float]) -> list[int]:
    """Change the trunk so that pooled channels are means of detectors; return which channels.

    Args:
        trunk: EfficientNet-Lite0 of timm.
        weight: Of the detector of damaged patches (D,), on features of stride 16.
        biases: One per detector: it is min(6, max(0, weight x + bias)).
    """
    first, *others = trunk.blocks[5]
    last = trunk.blocks[6][0]
    n = len(biases)
    hidden = _lightest(first.conv_pwl, n)
    _write(first.conv_pw, first.bn1, hidden, weight.expand(n, -1), torch.tensor(biases))
    box = torch.zeros(5, 5)
    box[1:3, 1:3] = 0.25  # each patch of stride 16 counts once
    _write_depthwise(first.conv_dw, first.bn2, hidden, box)
    carried = _least_read([last.conv_pw, *(block.conv_pw for block in others)], n)
    means = _lead(first, hidden, carried, 1.0)
    for block in others:
        _unread(block.conv_pw, block.bn1, carried, means)
        means = means + block.bn3.bias[carried]
        block.conv_pwl.weight[carried] = 0
        _identity(block.bn3, carried)
    hidden = _lightest(last.conv_pwl, n)
    _unread(last.conv_pw, last.bn1, carried, means)
    _write(last.conv_pw, last.bn1, hidden, torch.eye(last.conv_pw.in_channels)[carried], torch.zeros(n))
    center = torch.zeros(last.conv_dw.weight.shape[-2:])
    center[center.shape[0] // 2, center.shape[1] // 2] = 1
    _write_depthwise(last.conv_dw, last.bn2, hidden, center)
    faint = _least_read([trunk.conv_head], n)
    means = _lead(last, hidden, faint, FAINT)
    _unread(trunk.conv_head, trunk.bn2, faint, means)
    pooled = list(range(n))
    _write(trunk.conv_head, trunk.bn2, pooled, torch.eye(trunk.conv_head.in_channels)[faint] / FAINT, torch.zeros(n))
    return pooled


@torch.no_grad()
def detect_at_end(trunk: Any, weight: Tensor, biases: Sequence[float]) -> list[int]:
    """The same for detectors on features of stride 32; their pooled channels are the last ones."""
    pooled = list(range(trunk.num_features - len(biases), trunk.num_features))
    _write(trunk.conv_head, trunk.bn2, pooled, weight.expand(len(biases), -1), torch.tensor(biases))
    return pooled


def _lightest(convolution: Any, n: int) -> list[int]:
    """Inputs of a convolution that weigh least in its outputs."""
    return convolution.weight.flatten(1).norm(dim=0).argsort()[:n].tolist()


def _least_read(readers: Sequence[Any], n: int) -> list[int]:
    """Channels that the convolutions after them weigh least."""
    return torch.stack([reader.weight.flatten(1).norm(dim=0) for reader in readers]).norm(dim=0).argsort()[:n].tolist()


def _write(convolution: Any, norm: Any, rows: list[int], weight: Tensor, bias: Tensor) -> None:
    """Make some outputs of a 1 x 1 convolution and its normalisation this linear map."""
    convolution.weight[rows] = weight[:, :, None, None]
    _identity(norm, rows)
    norm.bias[rows] = bias


def _write_depthwise(convolution: Any, norm: Any, rows: list[int], kernel: Tensor) -> None:
    convolution.weight[rows] = kernel
    _identity(norm, rows)


def _lead(block: Any, hidden: list[int], outputs: list[int], scale: float) -> Tensor:
    """Write hidden channels of a block to outputs of it, and nowhere else; return these outputs' means of before."""
    means = block.bn3.bias[outputs].clone()
    block.conv_pwl.weight[:, hidden] = 0
    block.conv_pwl.weight[outputs] = 0
    block.conv_pwl.weight[outputs, hidden] = torch.full((len(hidden), 1, 1), scale)
    _identity(block.bn3, outputs)
    return means


def _unread(convolution: Any, norm: Any, inputs: list[int], means: Tensor) -> None:
    """Have a convolution read constants, the means, where the inputs were."""
    norm.running_mean -= convolution.weight[:, inputs, 0, 0] @ means
    convolution.weight[:, inputs] = 0


def _identity(norm: Any, channels: list[int]) -> None:
    """Switch normalisation off for some channels."""
    norm.weight[channels], norm.bias[channels], norm.running_mean[channels] = 1.0, 0.0, 0.0
    norm.running_var[channels] = 1 - norm.eps
