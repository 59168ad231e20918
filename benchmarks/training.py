# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step of the adapters against the bare vision tower's forward pass, in one run.

python benchmarks/training.py             # ViT-L/14 at 518 pixels, minutes on 2 CPU cores
python benchmarks/training.py --quick     # ViT-B/32 at 224 pixels, seconds
"""

from __future__ import annotations

import argparse
import resource

import torch
from inference import PROMPTS
from timing import best_times

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.torch_model import AprilGanModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    backbone, size = ("ViT-B-32", 224) if options.quick else ("ViT-L-14-336", 518)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AprilGanModel(ClipEncoder(backbone, None, size), PROMPTS, size).to(device)
    optimizer = torch.optim.Adam(model.adapters.parameters(), lr=1e-3, betas=(0.5, 0.999))
    images = torch.randn(options.batch_size, 3, size, size, device=device)
    masks = (torch.rand(options.batch_size, size, size, device=device) > 0.9).float()
    features = model.encode_class_name("bottle").expand(options.batch_size, -1, -1)

    def tower() -> None:
        with torch.inference_mode():
            model.encoder.clip.encode_image(images)

    def step() -> None:
        optimizer.zero_grad()
        focal, dice = model.stage_losses(images, masks, features)
        (focal + dice).sum().backward()
        optimizer.step()

    tower()
    before = peak_memory()
    times = best_times({"tower": tower, "step": step}, repeats=3)
    print(f"{backbone} at {size}, batch {options.batch_size}, {device}, float32")
    for name, seconds in times.items():
        print(
            f"{name:6} {seconds:8.2f} s  {options.batch_size / seconds:6.2f} images/s  {seconds / times['tower']:.3f} x"
        )
    print(f"peak memory of the step beyond the forward pass: {peak_memory() - before:.2f} GiB")


def peak_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
