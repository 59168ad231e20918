# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time until a model can look at its first image: loading CLIP, and encoding the prompts about a class name.

python benchmarks/startup.py             # ViT-L/14, a file of 1.7 GB with random weights is made; minutes on 2 cores
python benchmarks/startup.py --quick     # ViT-B/32, 2 prompts
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from inference import PROMPTS
from timing import best_times, seconds

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.torch_model import AprilGanModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    backbone, size = ("ViT-B-32", 224) if quick else ("ViT-L-14-336", 336)
    prompts = PROMPTS if quick else PromptEnsemble.from_yaml()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # where anomalib's cache lies: nothing is there yet
        path = Path(folder) / "clip.pt"
        torch.save(ClipEncoder(backbone, None, size).clip.state_dict(), path)
        loading: dict[str, Callable[[], object]] = {
            "open_clip": lambda: open_clip.create_model(backbone, pretrained=str(path)),
            "ours": lambda: ClipEncoder(backbone, str(path), size),
        }
        times = best_times(loading, repeats=2)
        print_ratio(f"loading {backbone} from a file: open_clip.create_model, ours", *times.values())
        model = AprilGanModel(ClipEncoder(backbone, str(path), size), prompts, size)
        first, again = (seconds(lambda: model.setup("bottle")) for _ in range(2))
        print_ratio(f"setup of a class name, {n_prompts(model)} prompts: first, again", first, again)


def n_prompts(model: AprilGanModel) -> int:
    return sum(map(len, model.prompts.prompts_about("bottle")))


def print_ratio(what: str, before: float, after: float) -> None:
    print(f"{what}: {before:.2f} s, {after:.2f} s, ratio {before / after:.1f}")


if __name__ == "__main__":
    main()
