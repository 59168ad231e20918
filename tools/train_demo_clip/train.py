# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Fit the heads of the demo's CLIP on features of the frozen tower, and write the package's two files.

    python tools/train_demo_clip/features.py --output features.pt
    python tools/train_demo_clip/train.py --features features.pt --output anomalib_aprilgan/clip

Every head is a logistic regression. That of each stage tells damaged from sound patches and becomes the stage's
adapter; that of the image embedding tells damaged from sound pictures by means of patch detectors. In the joint space,
a logit is written along the direction from normal to abnormal texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from captions import ARBITRARY, GENERIC
from detectors import detect_at_end, lead_through
from features import load
from pictures import PHOTOGRAPHS
from storage import save
from torch import Tensor
from torch.nn import functional as F
from tower import STAGES, imagenet_trunk
from words import load_text_tower, turn_joint_space

from anomalib_aprilgan.clip.configuration import DEMO, DEMO_ADAPTERS, clip_config
from anomalib_aprilgan.clip.weights import DEMO_WEIGHTS
from anomalib_aprilgan.compat.open_clip import build_clip
from anomalib_aprilgan.maps import LOGIT_SCALE

PATCH_PENALTY, IMAGE_PENALTY = 1e-3, 1e-2
DAMAGED = 0.2  # share of a patch from which on it counts as damaged
PER_PICTURE = 5, 10  # damaged and sound patches, on average
STRIDE_16, STRIDE_32 = 1, 2  # among the stages
FINE, COARSE, COARSE_SHARE = (1.0, 2.0, 3.0), (-2.0,), 0.3  # thresholds of the detectors' logits at both strides
# Of logits: steep ones would drown what references tell, and the order of zero-shot scores does not depend on them.
MAP_SLOPE, IMAGE_SLOPE = 0.1, 0.25
WORDS = sorted({*GENERIC, *ARBITRARY, *(name for names in PHOTOGRAPHS.values() for name in names)})
CONTENT_AXES, CONTENT_SHARE = 48, 0.5  # of the embedding: how many, and how large beside its constant
Line = tuple[Tensor, float]  # a linear function: weight (D,) and bias


def main() -> None:
    """Read the arguments, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="file of features.py")
    parser.add_argument("--text", type=Path, default=DEMO_WEIGHTS, help="file with the text tower, see words.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the two files")
    arguments = parser.parse_args()
    write(load(arguments.features), arguments.text, arguments.output)


def write(data: dict[str, Any], text: Path, output: Path) -> None:
    """Fit all heads and write the files."""
    clip: Any = build_clip(clip_config(DEMO), 224, quick_gelu=False)
    tokens = load_text_tower(clip, text)
    gap = turn_joint_space(clip, WORDS)
    silent, state = torch.eye(len(clip.text_projection.T))[:2]

    def joint(line: Line, slope: float) -> tuple[Tensor, Tensor]:
        """Weight (E, D) and bias (E,) whose cosines with texts differ by the line, times slope / LOGIT_SCALE."""
        weight, bias = line
        return state[:, None] * weight, state * bias + silent * (LOGIT_SCALE * gap / slope)

    lines = [fit_stage(data, number) for number in range(len(STAGES))]
    adapters = {}
    for number, line in enumerate(lines):
        adapters[f"fc.{number}.weight"], adapters[f"fc.{number}.bias"] = joint(line, MAP_SLOPE)
    torch.save({"trainable_linearlayer": adapters}, output / DEMO_ADAPTERS.name)
    weight, bias = fit_images(data, lines)
    trunk = imagenet_trunk()
    pooled = lead_through(trunk, *_shifted(lines[STRIDE_16], FINE))
    pooled += detect_at_end(trunk, *_shifted(lines[STRIDE_32], COARSE))
    spread = torch.zeros(trunk.num_features)
    spread[pooled] = weight
    head = dict(zip(("weight", "bias"), joint((spread, bias), IMAGE_SLOPE), strict=True))
    content = slice(2, 2 + CONTENT_AXES)
    head["weight"][content], head["bias"][content] = fit_content(data, trunk, CONTENT_SHARE * float(head["bias"][0]))
    clip.visual.trunk.load_state_dict(trunk.state_dict())
    clip.visual.head.proj.load_state_dict(head)
    save(clip.state_dict(), tokens, output / DEMO_WEIGHTS.name)


def fit_stage(data: dict[str, Any], number: int) -> Line:
    """Tell damaged from sound patches of a stage."""
    maps = data["stages"][number]
    shares = F.adaptive_avg_pool2d(data["masks"][:, None], maps.shape[-2:]).flatten(1)
    draw = torch.Generator().manual_seed(0)
    chosen = []
    for wanted, count in zip((shares > DAMAGED, shares == 0), PER_PICTURE, strict=True):
        places = wanted.nonzero()
        chosen.append(places[torch.randperm(len(places), generator=draw)[: count * len(maps)]])
    tokens = maps.flatten(2).transpose(1, 2)
    rows = torch.cat([tokens[places[:, 0], places[:, 1]] for places in chosen]).float()
    labels = torch.cat([torch.ones(len(chosen[0])), torch.zeros(len(chosen[1]))])
    return logistic_regression(rows, labels, PATCH_PENALTY)


def fit_images(data: dict[str, Any], lines: list[Line]) -> Line:
    """Tell damaged from sound pictures by a sum of the detectors' means, whose proportions are fixed."""
    detectors = ((STRIDE_16, FINE, 1.0), (STRIDE_32, COARSE, COARSE_SHARE))
    means = [_detected(data["stages"][at], lines[at], thresholds) for at, thresholds, _ in detectors]
    weights = [share / each.sum(dim=1).std() for each, (_, _, share) in zip(means, detectors, strict=True)]
    total = sum(weight * each.sum(dim=1) for weight, each in zip(weights, means, strict=True))
    slope, bias = logistic_regression(total[:, None], data["labels"], IMAGE_PENALTY)
    return torch.cat([slope * w.expand(each.shape[1]) for w, each in zip(weights, means, strict=True)]), bias


@torch.no_grad()
def fit_content(data: dict[str, Any], trunk: Any, length: float) -> tuple[Tensor, Tensor]:
    """Weight (A, D) and bias (A,) of the principal components of pooled features: what tells pictures apart.

    Args:
        data: Features of the pictures.
        trunk: The tower.
        length: Root mean square of the components' norm.
    """
    last = data["stages"][STRIDE_32].float().split(64)
    pooled = torch.cat([trunk.bn2(trunk.conv_head(maps)).mean(dim=(2, 3)) for maps in last])
    mean = pooled.mean(dim=0)
    _, values, components = torch.linalg.svd(pooled - mean, full_matrices=False)
    weight = components[:CONTENT_AXES] * length * len(pooled) ** 0.5 / values[:CONTENT_AXES].norm()
    return weight, -weight @ mean


def logistic_regression(rows: Tensor, labels: Tensor, penalty: float) -> Line:
    """Both labels weigh the same; the penalty is on squared weights of standardised columns."""
    mean, deviation = rows.mean(dim=0), rows.std(dim=0) + 1e-6
    scaled = (rows - mean) / deviation
    share = labels.mean()
    importance = torch.where(labels > 0.5, 0.5 / share, 0.5 / (1 - share))
    found = torch.zeros(rows.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=40, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = scaled @ found[:-1] + found[-1]
        value = F.binary_cross_entropy_with_logits(logits, labels, importance) + penalty * found[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight = found.detach()[:-1] / deviation
    return weight, float(found.detach()[-1] - weight @ mean)


def _detected(maps: Tensor, line: Line, thresholds: Sequence[float]) -> Tensor:
    """Means (B, T) over patches of what the detectors say of feature maps (B, D, h, w)."""
    weight, biases = _shifted(line, thresholds)
    logits = torch.einsum("bdhw,d->bhw", maps.float(), weight)
    return torch.stack([(logits + bias).clamp(0, 6).mean(dim=(1, 2)) for bias in biases], dim=1)


def _shifted(line: Line, thresholds: Sequence[float]) -> tuple[Tensor, list[float]]:
    """A detector's weight, and its biases for each threshold."""
    weight, bias = line
    return weight, [bias - threshold for threshold in thresholds]


if __name__ == "__main__":
    main()
