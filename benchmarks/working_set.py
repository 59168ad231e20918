# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that everything besides the vision tower needs beyond its inputs: ViT-L/14 at 518 pixels, batch 8 (Linux).

python benchmarks/working_set.py             # zero-, 4- and 10-shot, float32 and bfloat16, seconds on 2 CPU cores
python benchmarks/working_set.py --quick     # batch 1
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from anomalib_aprilgan.memory import make_banks
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.torch_model import AprilGanModel

SIDE, PATCHES, WIDTH, EMBED_DIM, STAGES = 518, 1369, 1024, 768, 4
# Freed memory goes back to the system at once: the peak is what is in use.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if not ALLOCATOR.keys() <= os.environ.keys():
        subprocess.run([sys.executable, *sys.argv], check=True, env={**os.environ, **ALLOCATOR})
        return
    batch = 1 if quick else 8
    print(f"ViT-L/14 at {SIDE}, batch {batch}: MiB beyond tokens, memory banks and images")
    for shots in (0, 4) if quick else (0, 4, 10):
        model, images = prepared(batch, shots)
        with torch.inference_mode():
            full = peak(model, images)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = peak(model, images)
        print(f"{shots:2}-shot: float32 {full:4.0f}, bfloat16 {half:4.0f}")


class Encoded(nn.Module):
    """An encoder that has done its work before."""

    widths, layers, embed_dim = [WIDTH] * STAGES, [6, 12, 18, 24], EMBED_DIM

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.output = torch.randn(batch, EMBED_DIM), random_tokens(batch)

    def forward(self, _images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.output


def random_tokens(batch: int) -> list[Tensor]:
    return [torch.randn(batch, PATCHES, WIDTH) for _ in range(STAGES)]


def prepared(batch: int, shots: int) -> tuple[AprilGanModel, Tensor]:
    encoder: nn.Module = Encoded(batch)
    model = AprilGanModel(encoder, PromptEnsemble(["{}"], ["damaged {}"], ["a photo of a {}."]), SIDE).eval()
    model.class_name = "bottle"
    if shots:
        model.memory.replace(make_banks(random_tokens(shots)))
    return model, torch.zeros(batch, 3, SIDE, SIDE)


def peak(model: AprilGanModel, images: Tensor) -> float:
    """The second call's peak of resident memory: the first one's includes what libraries set up once."""
    model(images)
    Path("/proc/self/clear_refs").write_text("5")  # forgets earlier peaks
    before = resident("VmRSS")
    model(images)
    return resident("VmHWM") - before


def resident(name: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
