# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the pixel metrics of one category against anomalib's, each in a process of its own.

python benchmarks/metrics.py             # 200 images of 518 x 518 pixels, about a minute on 2 CPU cores
python benchmarks/metrics.py --quick     # 16 images
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import anomalib.metrics
import torch
from anomalib.data import ImageBatch

from anomalib_aprilgan.components.metrics import pixel_metrics

NAMES = ("AUROC", "F1Max", "AUPR", "AUPRO")
BATCH, SIDE = 8, 518


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", choices=["ours", "anomalib"], help="used by the program itself")
    options = parser.parse_args()
    n_images = 16 if options.quick else 200
    if options.measure:
        print(json.dumps(measured(options.measure, n_images)))
        return
    results = {whose: in_process(whose, quick=options.quick) for whose in ("anomalib", "ours")}
    print(f"{n_images} images of {SIDE} x {SIDE}: {', '.join(NAMES)}")
    for whose, result in results.items():
        values = " ".join(f"{value:.6f}" for value in result["values"])
        print(f"{whose:9} {result['seconds']:7.2f} s {result['gigabytes']:6.2f} GiB   {values}")
    seconds, memory = (results["anomalib"][key] / results["ours"][key] for key in ("seconds", "gigabytes"))
    print(f"anomalib / ours: time {seconds:.1f}, memory {memory:.1f}")


def in_process(whose: str, *, quick: bool) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "--measure", whose, *(["--quick"] if quick else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measured(whose: str, n_images: int) -> dict:
    """Values, seconds and additional peak memory of updating and computing the metrics of random maps."""
    metrics = pixel_metrics() if whose == "ours" else anomalib_metrics()
    before, seconds = peak_memory(), 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_images // BATCH):
        batch = random_batch(generator)
        start = time.perf_counter()
        for metric in metrics:
            metric.update(batch)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    values = [float(metric.compute()) for metric in metrics]
    seconds += time.perf_counter() - start
    return {"values": values, "seconds": seconds, "gigabytes": peak_memory() - before}


def anomalib_metrics() -> list:
    return [getattr(anomalib.metrics, name)(fields=["anomaly_map", "gt_mask"]) for name in NAMES]


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def random_batch(generator: torch.Generator) -> ImageBatch:
    """Maps in [0, 1]; every second image has a defect."""
    maps = torch.rand(BATCH, SIDE, SIDE, generator=generator)
    masks = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.bool)
    masks[::2, 100:140, 50:90] = True
    maps[masks] += 0.3
    return ImageBatch(image=torch.zeros(BATCH, 3, 1, 1), anomaly_map=maps / 1.3, gt_mask=masks)


if __name__ == "__main__":
    main()
