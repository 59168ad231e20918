# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step of the adapters against the bare vision tower's forward pass, in one run; and of the data.

Data: images and masks of 1024 x 1024 pixels read, a fifth of them as mosaics, and resized, in one process, as each
worker of the data module does; and the same with all files held decoded, as they are where memory allows.

python benchmarks/training.py             # ViT-L/14 at 518 pixels, minutes on 2 CPU cores
python benchmarks/training.py --quick     # ViT-B/32 at 224 pixels, seconds
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from inference import PROMPTS
from PIL import Image, ImageFilter
from timing import best_times
from torchvision.transforms.v2 import InterpolationMode, Resize

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.data.auxiliary_dataset import AuxiliaryDataset
from anomalib_aprilgan.torch_model import AprilGanModel

SIDE, FILES = 1024, 8


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
    with tempfile.TemporaryDirectory() as folder:
        plain, decoded = (auxiliary_data(Path(folder), size) for _ in range(2))
        decoded.check_files(memory=2**30)  # as the data module does before training
        count = options.batch_size
        read = {"data": lambda: [plain[n] for n in range(count)], "held": lambda: [decoded[n] for n in range(count)]}
        times = best_times({"tower": tower, "step": step, **read}, repeats=3)
    print(f"{backbone} at {size}, batch {options.batch_size}, {device}, float32")
    for name, seconds in times.items():
        print(
            f"{name:6} {seconds:8.2f} s  {options.batch_size / seconds:6.2f} images/s  {seconds / times['tower']:.3f} x"
        )
    print(f"peak memory of the step beyond the forward pass: {peak_memory() - before:.2f} GiB")


def auxiliary_data(folder: Path, size: int) -> AuxiliaryDataset:
    """Images of blurred noise, which compresses like a photograph, half of them with a mask."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(FILES):
        noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        paths = [str(folder / f"{number}{end}.png") for end in ("", "_mask")]
        noise.filter(ImageFilter.GaussianBlur(2)).save(paths[0])
        Image.fromarray(np.pad(np.full((99, 99), 255, np.uint8), (0, SIDE - 99))).save(paths[1])
        rows.append((paths[0], number % 2, paths[1] if number % 2 else "", "noise", "test"))
    samples = pd.DataFrame(rows, columns=["image_path", "label_index", "mask_path", "category", "split"])
    data = AuxiliaryDataset(samples, mosaic_probability=0.2)
    data.augmentations = Resize((size, size), InterpolationMode.BICUBIC, antialias=True)
    return data


def peak_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
