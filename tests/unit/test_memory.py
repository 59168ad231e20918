# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Memory bank against scikit-learn, and the part of the patch tokens that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from anomalib_aprilgan.memory import (
    QUERIES_PER_PASS,
    ROWS_PER_PASS,
    MemoryBank,
    coreset,
    distances,
    make_banks,
    select_references,
)


@pytest.mark.parametrize(("n_queries", "n_rows"), [(7, 7), (QUERIES_PER_PASS, 7), (7, ROWS_PER_PASS)])
def test_distances_equal_sklearn_in_any_number_of_passes(n_queries: int, n_rows: int) -> None:
    references = [torch.randn(3, n_rows, 5), torch.randn(3, 4, 9)]
    queries = [torch.randn(2, n_queries, 5), torch.randn(2, 4, 9)]
    for reference, query, actual in zip(references, queries, distances(queries, make_banks(references)), strict=True):
        expected = cosine_distances(query.flatten(0, 1), reference.flatten(0, 1)).min(axis=1).reshape(actual.shape)
        torch.testing.assert_close(actual, torch.from_numpy(expected).float(), atol=1e-6, rtol=0)


def test_a_stored_patch_has_distance_zero_at_any_scale() -> None:
    tokens = torch.randn(2, 6, 8)
    (distance,) = distances([3 * tokens], make_banks([tokens]))
    torch.testing.assert_close(distance, torch.zeros(2, 6), atol=1e-6, rtol=0)


def test_a_bank_is_empty_until_filled_and_after_clearing() -> None:
    bank = MemoryBank([8, 4])
    assert bank.is_empty
    for shots in (2, 3):  # the second filling replaces the first
        bank.replace(make_banks([torch.randn(shots, 6, 8), torch.randn(shots, 5, 4)]))
        assert [rows.shape for rows in bank.banks] == [(shots * 6, 8), (shots * 5, 4)]
        assert not bank.is_empty
    bank.replace([])
    assert bank.is_empty
    assert [rows.shape for rows in bank.banks] == [(0, 8), (0, 4)]


def test_state_dict_round_trip() -> None:
    bank, other = MemoryBank([8, 4]), MemoryBank([8, 4])
    bank.replace(make_banks([torch.randn(2, 6, 8), torch.randn(2, 3, 4)]))
    other.resize([len(rows) for rows in bank.banks])
    other.load_state_dict(bank.state_dict())
    for loaded, stored in zip(other.banks, bank.banks, strict=True):
        assert torch.equal(loaded, stored)


@pytest.mark.parametrize("n_rows", [50, ROWS_PER_PASS])
def test_under_autocast_distances_stay_in_full_precision(n_rows: int) -> None:
    """Half precision may choose another row among nearly equal ones, but not round the distance."""
    references, queries = torch.randn(2, n_rows, 64), torch.randn(2, 50, 64)
    banks = make_banks([references])
    (full,) = distances([queries], banks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (mixed,) = distances([queries], banks)
        (own,) = distances([references], banks)
    assert mixed.dtype == torch.float32
    assert ((mixed - full).abs() < 1e-6).float().mean() > 0.9
    assert (mixed - full).min() > -1e-6
    assert (mixed - full).max() < 0.01
    torch.testing.assert_close(own, torch.zeros(2, n_rows), atol=1e-6, rtol=0)


def test_a_part_is_the_bank_of_those_references() -> None:
    stages = [torch.randn(3, 5, 4), torch.randn(3, 7, 6)]
    selected = select_references(make_banks(stages), [2, 0], k_shot=3)
    for actual, expected in zip(selected, make_banks([tokens[[2, 0]] for tokens in stages]), strict=True):
        assert torch.equal(actual, expected)


def test_rows_in_half_precision_find_nearly_the_same_distances() -> None:
    """bfloat16 rounds to 8 bits: a cosine's sum of many small errors stays far below that."""
    references, queries = torch.randn(2, 50, 64), torch.randn(2, 50, 64)
    half = make_banks([references], torch.bfloat16)
    assert select_references(half, [1], k_shot=2)[0].dtype == half[0].dtype == torch.bfloat16
    (actual,), (expected,) = distances([queries], half), distances([queries], make_banks([references]))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=5e-3, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (mixed,) = distances([queries], half)
    torch.testing.assert_close(mixed, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_stages_is_no_match(count: int) -> None:
    banks = make_banks([torch.randn(1, 6, 8), torch.randn(1, 6, 8)])
    with pytest.raises(ValueError, match="zip"):
        distances([torch.randn(1, 6, 8)] * count, banks)
    with pytest.raises(ValueError, match="zip"):
        MemoryBank([8, 8]).resize([1] * count)


def test_exported_models_find_the_same_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    banks, queries = make_banks([torch.randn(2, 50, 64)]), torch.randn(3, 7, 64)
    (expected,) = distances([queries], banks)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    (actual,) = distances([queries], banks)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


# --- coreset ---


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
    tokens, parts, draws = torch.randn(1, 40, 200), [], []
    for seed, make in ((1, True), (1, False), (2, True)):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # what scikit-learn falls back to
        parts += [coreset(tokens, 0.3)] * make
        draws.append((torch.rand(1), np.random.rand()))  # noqa: NPY002
    assert torch.equal(*parts)
    assert draws[0] == draws[1]


def test_too_small_a_ratio_is_an_error() -> None:
    with pytest.raises(ValueError, match="sampling_ratio"):
        coreset(torch.randn(1, 10, 4), 0.01)
