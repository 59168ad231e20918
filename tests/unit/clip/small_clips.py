# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Small encoders for tests: a ViT by the goldens' rule, and towers of timm."""

from __future__ import annotations

import json
from pathlib import Path

from anomalib_aprilgan.clip.encoder import ClipEncoder
from conftest import TINY_CLIP

TIMM = {
    # name: (image size, patch size or stride of the last stage, widths, pooling)
    "test_convnext": (64, 32, None, "avg"),
    "resnet10t": (64, 32, [64, 128, 256, 512], "avg"),  # tapped from stride 4 on
    "eva02_tiny_patch14_224": (56, 14, [192] * 4, "token"),
    "test_vit": (64, 16, [64] * 4, "token"),
    "test_vit3": (64, 16, [96] * 4, "map"),  # attention pooling, as in SigLIP
}


def timm_config(folder: Path, name: str) -> Path:
    vision = {"timm_model_name": name, "timm_pool": TIMM[name][3], "timm_proj": "linear", "image_size": 224}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TINY_CLIP["text_cfg"]}))
    return path


def tiny(clip_folder: Path, **kwargs: object) -> ClipEncoder:
    return ClipEncoder(
        str(clip_folder / "tiny.json"), **{"pretrained": str(clip_folder / "tiny.pt"), "image_size": 70, **kwargs}
    )
