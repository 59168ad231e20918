# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A table of 16 runs (0, 1, 2 and 4 references, 5 seeds) in one pass, against single runs, side by side in one process.

python benchmarks/sweep.py              # ViT-B/16 at 224 pixels, random weights: minutes on 2 CPU cores
python benchmarks/sweep.py --memory     # peak memory: 200 images of 518 pixels, tokens of the size of ViT-L/14's
python benchmarks/sweep.py --quick      # both with a tiny network and few images

Single runs of one seed are measured and multiplied by the number of seeds; ``--all`` measures all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from lightning import seed_everything
from PIL import Image
from torch import Tensor

from anomalib_aprilgan import memory
from anomalib_aprilgan.adapters import StageAdapters
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.comparison.grid import DataSpec, Grid, Job, ModelSpec
from anomalib_aprilgan.comparison.metrics import IMAGE_METRICS, PIXEL_METRICS
from anomalib_aprilgan.comparison.models import build_model
from anomalib_aprilgan.comparison.runs import run_job, silence
from anomalib_aprilgan.comparison.sweep import run_portion

SHOTS, SEEDS, N_TRAIN = [0, 1, 2, 4], [0, 1, 2, 3, 4], 20
LAYERS = 4
# Patch tokens of the size of those of ViT-L/14 at 518 pixels, from a network of 4 layers that is never run.
WIDE = {"image_size": 518, "layers": LAYERS, "width": 1024, "patch_size": 14}
TINY = {"image_size": 56, "layers": LAYERS, "width": 64, "head_width": 16, "patch_size": 14}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=120, help="in the test set of the table")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = name  # for the text features of the random network
        tiny = write_config(folder, TINY)
        if options.quick:
            compare_times(make_grid(folder, tiny, 56, 8), all_seeds=options.all)
        elif not options.memory:
            compare_times(make_grid(folder, "ViT-B-16", 224, options.images), all_seeds=options.all)
        if options.quick:
            measure_memory(make_grid(folder, tiny, 56, 8))
        elif options.memory:
            measure_memory(make_grid(folder, write_config(folder, WIDE), 518, 200))


def write_config(folder: Path, vision: dict) -> str:
    path = folder / "network.json"
    path.write_text(json.dumps({"embed_dim": 768 if vision is WIDE else 32, "vision_cfg": vision, "text_cfg": TEXT}))
    return str(path)


def make_grid(folder: Path, backbone: str, side: int, n_test: int) -> Grid:
    """The comparison, and on disk its images and adapters of random weights."""
    root = folder / f"{side}"
    rng = np.random.default_rng(0)
    for part, count in (("train/good", N_TRAIN), ("test/good", n_test // 2), ("test/hole", n_test // 2)):
        for index in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            save(noise.resize((side, side)), root, part, index)
    for index in range(n_test // 2):
        mask = np.zeros((side, side), dtype=np.uint8)
        mask[side // 3 : side // 2, side // 3 : side // 2] = 255
        save(Image.fromarray(mask), root, "ground_truth/hole", index)
    seed_everything(0, verbose=False)
    encoder = ClipEncoder(backbone, None, side)
    torch.save({"trainable_linearlayer": StageAdapters(encoder.widths, encoder.embed_dim).state_dict()}, root / "a.pth")
    arguments = {"backbone": backbone, "pretrained": None, "image_size": side, "adapters": str(root / "a.pth")}
    data = DataSpec("anomalib.data.MVTecAD", {"root": str(root), "num_workers": 0, "eval_batch_size": 8})
    model = ModelSpec("anomalib_aprilgan.AprilGan", arguments)
    return Grid({"AprilGan": model}, {"noise": data}, SHOTS, SEEDS, mask_size=side, thumbnails=0, trainer={})


def save(image: Image.Image, root: Path, part: str, index: int) -> None:
    path = root / "part" / part / f"{index:03}{'_mask' if part.startswith('ground') else ''}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


class Counted:
    """Counts the images that the encoder is given, and the time."""

    def __enter__(self) -> Counted:
        self.images, forward = 0, ClipEncoder.forward

        def counting(encoder: ClipEncoder, images: Tensor) -> tuple[Tensor, list[Tensor]]:
            self.images += len(images)
            return forward(encoder, images)

        self._patch = patch.object(ClipEncoder, "forward", counting)
        self._patch.start()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.processor = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self._patch.stop()


def jobs_of(grid: Grid) -> list[Job]:
    return grid.jobs({"noise": ["part"]}, {"AprilGan": SHOTS})


def sweep(grid: Grid, limit: float | None = None) -> list[dict]:
    outcomes, rest, _ = run_portion(grid, jobs_of(grid), limit)
    rows = checked(row for _, row, _ in outcomes)
    assert not rest, "the memory does not suffice for one pass"
    return rows


def checked(rows: Iterable[dict]) -> list[dict]:
    rows = list(rows)
    for row in rows:
        assert row["error"] is None, row["traceback"]
    return rows


def compare_times(grid: Grid, *, all_seeds: bool) -> None:
    with silence():
        model = build_model(grid, "AprilGan", "noise", [], "part")  # which all runs share
        model.model.encode_class_name("part")  # from now on in the cache
    jobs = jobs_of(grid)
    measured = [job for job in jobs if all_seeds or job.seed == SEEDS[0]]
    seconds = processor = passes = 0.0
    rows = {}
    for job in measured:  # the first is one of 0 shots, which counts once: it pays for what is loaded late
        times = 1 if all_seeds or not job.shots else len(SEEDS)
        with Counted() as alone:
            (rows[job],) = checked([run_job(grid, job)[1]])
        seconds, processor = seconds + times * alone.seconds, processor + times * alone.processor
        passes += times * alone.images
    with Counted() as together:
        swept = dict(zip(jobs, sweep(grid), strict=True))
    for job, row in rows.items():
        names = [*IMAGE_METRICS, *PIXEL_METRICS]
        assert [row[name] for name in names] == [swept[job][name] for name in names], "the numbers differ"
    n_images = row["n_images"]
    references = {path for row in swept.values() for path in row["references"]}
    per_image = [passes / n_images, together.images / n_images]
    print(f"{len(jobs)} runs on {n_images} test images, {row['device']}; equal numbers in {len(measured)} of them")
    ratio = seconds / together.seconds
    print(f"seconds: single runs {seconds:.1f}, one pass {together.seconds:.1f}; ratio {ratio:.1f}")
    ratio = processor / together.processor
    print(f"of the CPU, whatever else it does: {processor:.1f}, {together.processor:.1f}; ratio {ratio:.1f}")
    print(f"tower passes per test image: single runs {per_image[0]:.2f}, one pass {per_image[1]:.2f}", end=" ")
    print(f"({len(references) / n_images:.2f} of it for {len(references)} references)")


def measure_memory(grid: Grid) -> None:
    """The tower gives random tokens; the search looks at few rows, since its time is of no interest here."""
    with silence():
        model = build_model(grid, "AprilGan", "noise", [], "part").model
        model.encode_class_name("part")
    before = resident()
    n_patches, search = model.encoder.image_size**2 // 14**2, memory.distance_by_position

    def encode(encoder: ClipEncoder, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = [torch.randn(len(images), n_patches, width) for width in encoder.widths]
        return torch.randn(len(images), encoder.embed_dim), tokens

    def quick_search(tokens: Tensor, bank: Tensor, positions: int) -> Tensor:
        return search(tokens, bank[:16], positions)

    with patch.object(ClipEncoder, "forward", encode), patch.object(memory, "distance_by_position", quick_search):
        rows = sweep(grid, limit=float("inf"))
    peak = max(row["peak_memory_mib"] for row in rows) - before
    size = f"{len(rows)} runs, {rows[0]['n_images']} images, maps of {grid.mask_size} pixels"
    print(f"{size}: peak memory beside the model {peak:.0f} MiB")


def resident() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
