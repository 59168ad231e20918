# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The part of the patch tokens that a memory bank keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_aprilgan.memory import coreset


def test_all_tokens_at_ratio_one() -> None:
    tokens = torch.randn(2, 10, 4)
    assert coreset(tokens, 1.0) is tokens


def test_each_image_keeps_its_own_tokens_and_each_once() -> None:
    tokens = torch.randn(2, 20, 8)
    part = coreset(tokens, 0.25)
    assert part.shape == (2, 5, 8)
    for kept, image in zip(part, tokens, strict=True):
        same = (kept[:, None] == image[None]).all(dim=-1)
        assert (same.sum(dim=1) == 1).all()
        assert same.any(dim=0).sum() == 5


def test_every_cluster_keeps_a_token() -> None:
    """A random part of a fifth would miss some of five distant clusters."""
    centers = 100 * torch.randn(5, 512)
    tokens = (centers[torch.arange(25) % 5] + 0.01 * torch.randn(25, 512))[None]
    nearest = torch.cdist(coreset(tokens, 0.2)[0], centers).argmin(dim=1)
    assert nearest.sort().values.tolist() == [0, 1, 2, 3, 4]


def test_the_same_tokens_give_the_same_part_and_leave_random_states_alone() -> None:
    tokens = torch.randn(1, 40, 200)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # what scikit-learn falls back to
    one, draw = coreset(tokens, 0.3), (torch.rand(1), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert draw == (torch.rand(1), np.random.rand())  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(one, coreset(tokens, 0.3))


def test_too_small_a_ratio_is_an_error() -> None:
    with pytest.raises(ValueError, match="sampling_ratio"):
        coreset(torch.randn(1, 10, 4), 0.01)
