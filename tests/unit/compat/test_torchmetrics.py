# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for torchmetrics: each still needed, and working."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from anomalib_aprilgan.compat.torchmetrics import as_state, is_empty, vector


class Labels(Metric):
    """All labels."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, labels: Tensor) -> None:
        self.labels.append(labels)

    def compute(self) -> Tensor:
        return torch.cat(self.labels)


def test_a_process_without_values_sends_float32() -> None:
    metric, sent = Labels(), []
    metric._sync_dist(lambda values, group: sent.append(values.dtype) or [values])
    assert sent == [torch.float32] == [as_state(torch.tensor([1])).dtype]


def test_a_list_state_becomes_a_tensor() -> None:
    metric = Labels()
    assert is_empty(metric.labels)
    metric._sync_dist(lambda values, group: [values, values])
    assert isinstance(metric.labels, Tensor)
    assert is_empty(metric.labels)
    assert not is_empty(torch.ones(1))
    assert not is_empty([torch.ones(0), torch.ones(1)])


def test_a_vector_of_one_element_becomes_a_number() -> None:
    metric = Labels()
    metric.update(torch.ones(1))
    assert metric.compute().shape == ()
    assert vector(metric.compute()).shape == (1,)
    assert vector(torch.ones(2)).shape == (2,)
