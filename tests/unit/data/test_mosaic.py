# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The 2x2 mosaic against four slices."""

from __future__ import annotations

import torch

from anomalib_aprilgan.data.mosaic import mosaic


def test_four_quarters() -> None:
    images, masks = torch.rand(4, 3, 5, 7), torch.randint(2, (4, 5, 7), dtype=torch.uint8)
    image, mask = mosaic(list(images), list(masks))
    assert image.shape == (3, 10, 14)
    assert mask.dtype == torch.uint8
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        window = (..., slice(5 * row, 5 * row + 5), slice(7 * column, 7 * column + 7))
        assert torch.equal(image[window], images[number])
        assert torch.equal(mask[window], masks[number])


def test_other_sizes_are_brought_to_the_first() -> None:
    images = [torch.rand(3, 8, 8), torch.full((3, 4, 6), 0.25), torch.rand(3, 8, 8), torch.rand(3, 8, 8)]
    masks = [
        torch.zeros(8, 8),
        torch.tensor([[0.0] * 6, [1.0] * 6, [1.0] * 6, [0.0] * 6]),
        torch.zeros(8, 8),
        torch.ones(8, 8),
    ]
    image, mask = mosaic(images, masks)
    assert image.shape == (3, 16, 16)
    torch.testing.assert_close(image[:, :8, 8:], torch.full((3, 8, 8), 0.25))
    assert mask[:8, 8:].sum(dim=1).tolist() == [0, 0, 8, 8, 8, 8, 0, 0]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
