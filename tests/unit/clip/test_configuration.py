# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What an encoder is configured with."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_aprilgan.clip.configuration import clip_config, image_statistics
from small_clips import tiny


def test_statistics_are_the_tags(clip_folder: Path) -> None:
    assert image_statistics("ViT-B-16-SigLIP", "webli") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for pretrained in (None, "openai", str(clip_folder / "tiny.pt")):
        assert image_statistics("ViT-L-14-336", pretrained)[0][0] == pytest.approx(0.48145466)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("ViT-XXL", "Unknown `backbone` 'ViT-XXL'"), ("no.json", "is not a file"), ("coca_ViT-L-14", "is a CoCa")],
)
def test_an_unknown_backbone(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_config(backbone)


@pytest.mark.parametrize(("content", "message"), [("{", "is not an open_clip"), ("[]", "is not"), ("{}", "it has no")])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        clip_config(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("layers", [[], [0, 3], [3, 13], [6, 3], [3, 3]])
def test_layers_out_of_range(clip_folder: Path, layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"`layers` .* from 1 to 12 \(1-based\)"):
        tiny(clip_folder, layers=layers)
