# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for torch: that they work, and that torch still needs them."""

from __future__ import annotations

import torch
from open_clip.model import CLIP

from anomalib_aprilgan.compat.torch import SkipInitialisation
from conftest import TINY_CLIP


def test_no_numbers_are_drawn_for_initial_weights() -> None:
    before = torch.get_rng_state()
    with SkipInitialisation():
        CLIP(**TINY_CLIP)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_on_the_meta_device_still_loses_the_mask_of_the_text_tower() -> None:
    state = CLIP(**TINY_CLIP).state_dict()
    with torch.device("meta"):
        clip = CLIP(**TINY_CLIP)
    clip.load_state_dict(state, assign=True)
    assert not clip.token_embedding.weight.is_meta
    assert clip.attn_mask.is_meta
