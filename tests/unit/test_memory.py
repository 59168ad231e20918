# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Memory bank against scikit-learn, and its properties."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from anomalib_aprilgan import memory
from anomalib_aprilgan.memory import MemoryBank, nearest_distance


def filled(stages: list[torch.Tensor]) -> MemoryBank:
    bank = MemoryBank([tokens.shape[-1] for tokens in stages])
    bank.fill(stages)
    return bank


@pytest.mark.parametrize(("queries_per_pass", "rows_per_pass"), [(1, 1), (3, 5), (2**13, 2**11)])
def test_distances_equal_sklearn_in_any_chunking(
    monkeypatch: pytest.MonkeyPatch, queries_per_pass: int, rows_per_pass: int
) -> None:
    monkeypatch.setattr(memory, "QUERIES_PER_PASS", queries_per_pass)
    monkeypatch.setattr(memory, "ROWS_PER_PASS", rows_per_pass)
    references, queries = [torch.randn(3, 7, 5), torch.randn(3, 4, 9)], [torch.randn(2, 7, 5), torch.randn(2, 4, 9)]
    for reference, query, actual in zip(references, queries, filled(references)(queries), strict=True):
        expected = cosine_distances(query.flatten(0, 1), reference.flatten(0, 1)).min(axis=1).reshape(actual.shape)
        torch.testing.assert_close(actual, torch.from_numpy(expected).float(), atol=1e-6, rtol=0)


def test_a_stored_patch_has_distance_zero_at_any_scale() -> None:
    tokens = torch.randn(2, 6, 8)
    (distance,) = filled([tokens])([3 * tokens])
    torch.testing.assert_close(distance, torch.zeros(2, 6), atol=1e-6, rtol=0)


def test_more_references_never_raise_the_distance() -> None:
    references, queries = torch.randn(4, 6, 8), torch.randn(2, 6, 8)
    (few,), (many,) = filled([references[:2]])([queries]), filled([references])([queries])
    assert (many <= few).all()


def test_a_zero_token_has_distance_one() -> None:
    assert nearest_distance(torch.zeros(1, 1, 3), torch.eye(3)).item() == 1


def test_filling_again_replaces_and_clearing_empties() -> None:
    bank = filled([torch.randn(2, 6, 8)])
    bank.fill([torch.randn(3, 6, 8)])
    assert len(bank.banks[0]) == 18
    assert not bank.is_empty
    bank.clear()
    assert bank.is_empty
    assert bank.banks[0].shape == (0, 8)


def test_state_dict_round_trip() -> None:
    bank, other = filled([torch.randn(2, 6, 8), torch.randn(2, 3, 4)]), MemoryBank([8, 4])
    other.resize([len(rows) for rows in bank.banks])
    other.load_state_dict(bank.state_dict())
    for loaded, stored in zip(other.banks, bank.banks, strict=True):
        assert torch.equal(loaded, stored)


@pytest.mark.parametrize("rows_per_pass", [7, 2**11])
def test_under_autocast_distances_stay_in_full_precision(monkeypatch: pytest.MonkeyPatch, rows_per_pass: int) -> None:
    """Half precision may choose another row among nearly equal ones, but not round the distance."""
    monkeypatch.setattr(memory, "ROWS_PER_PASS", rows_per_pass)
    references, queries = torch.randn(2, 50, 64), torch.randn(2, 50, 64)
    bank = filled([references])
    (full,) = bank([queries])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (mixed,) = bank([queries])
        (own,) = bank([references])
    assert mixed.dtype == torch.float32
    assert ((mixed - full).abs() < 1e-6).float().mean() > 0.9
    assert (mixed - full).min() > -1e-6
    assert (mixed - full).max() < 0.01
    torch.testing.assert_close(own, torch.zeros(2, 50), atol=1e-6, rtol=0)


def test_a_part_is_the_bank_of_those_references() -> None:
    stages = [torch.randn(3, 5, 4), torch.randn(3, 7, 6)]
    whole, part = MemoryBank([4, 6]), MemoryBank([4, 6])
    whole.fill(stages)
    part.fill([tokens[[2, 0]] for tokens in stages])
    for actual, expected in zip(whole.of([2, 0], k_shot=3).banks, part.banks, strict=True):
        torch.testing.assert_close(actual, expected)
    assert len(whole.banks[0]) == 15


def test_rows_in_half_precision_find_nearly_the_same_distances() -> None:
    """bfloat16 rounds to 8 bits: a cosine's sum of many small errors stays far below that."""
    references, queries = torch.randn(2, 50, 64), torch.randn(2, 50, 64)
    half = MemoryBank([64], torch.bfloat16)
    half.fill([references])
    assert half.of([1], k_shot=2).stage0.dtype == half.stage0.dtype == torch.bfloat16
    (actual,), (expected,) = half([queries]), filled([references])([queries])
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=5e-3, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (mixed,) = half([queries])
    torch.testing.assert_close(mixed, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_stages_is_no_match(count: int) -> None:
    bank = filled([torch.randn(1, 6, 8), torch.randn(1, 6, 8)])
    with pytest.raises(ValueError, match="zip"):
        bank([torch.randn(1, 6, 8)] * count)
    with pytest.raises(ValueError, match="zip"):
        bank.resize([1] * count)


def test_exported_models_find_the_same_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = filled([torch.randn(2, 50, 64)]), torch.randn(3, 7, 64)
    (expected,) = bank([queries])
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    (actual,) = bank([queries])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_a_new_bank_is_empty() -> None:
    bank = MemoryBank([8, 4])
    assert bank.is_empty
    assert [len(rows) for rows in bank.banks] == [0, 0]
