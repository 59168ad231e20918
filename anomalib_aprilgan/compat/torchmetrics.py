# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults of torchmetrics, all seen in 1.9.0."""

from __future__ import annotations

import torch
from torch import Tensor


def as_state(values: Tensor) -> Tensor:
    """The values in float32, the only type that processes can exchange if one of them has none.

    A process without values sends an empty float32 tensor, whatever the type of the others' values is. (How the empty
    tensor came in: https://github.com/Lightning-AI/torchmetrics/issues/2463)
    """
    return values.to(torch.float32)


def is_empty(state: list[Tensor] | Tensor) -> bool:
    """Whether a list state holds no value.

    Once processes have exchanged their values, the list has become a tensor.
    """
    return len(state) == 0 if isinstance(state, Tensor) else not any(len(part) for part in state)


def vector(computed: Tensor) -> Tensor:
    """A computed vector (N,), also where N is 1.

    ``Metric.compute`` turns each tensor of one element into a number.
    """
    return torch.atleast_1d(computed)
