# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What fewer bits cost: OpenVINO's float32, FP16 and INT8 on the demo data, on the same images, one after the other.

python benchmarks/quantization.py             # the demo's CLIP on the categories that it was not trained on
python benchmarks/quantization.py --quick     # one category, 4 references, six images of 112 pixels
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from sklearn.metrics import roc_auc_score

from anomalib_aprilgan import AprilGan, DemoDataModule
from anomalib_aprilgan.components.calibration_images import CheckedImage, images_of_datamodule, images_of_references
from anomalib_aprilgan.components.export_runtimes import Outputs, Run, run_openvino
from anomalib_aprilgan.components.quantization import quantized

SHOTS = 4
TABLE = "{:10}{:6}{:14}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}{:>8}{:>8}"
HEAD = ("score max", "mean", "map max", "mean", "decisions", "pixel AUROC", "ms", "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", nargs="+", default=["grass", "moon", "retina", "stars"])
    parser.add_argument("--every", type=int, default=1, help="take every nth test image")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(TABLE.format("category", "shots", "precision", *HEAD))
    with tempfile.TemporaryDirectory() as folder:
        for category in ["moon"] if options.quick else options.categories:
            for shots in (SHOTS,) if options.quick else (SHOTS, 0):
                compare(Path(folder), category, shots, *((10, 112) if options.quick else (options.every, 224)))


def compare(folder: Path, category: str, shots: int, every: int, side: int) -> None:
    data = DemoDataModule(folder / "data", category)
    normal, test = images_of_datamodule(data, side, (side, side))
    source = str(folder / "data" / category / "train" / "good") if shots else None
    options = {"class_name": category, "k_shot": shots, "few_shot_source": source, "visualizer": False}
    model = AprilGan("demo", "demo", side, adapters="demo", **options)
    path = model.to_openvino(folder / f"{category}{shots}")
    if shots:
        normal = images_of_references(model.reference_paths, side, (side, side))[0]
    makers: dict[str, Callable[[Any], Any]] = {
        "float32": lambda model: model,
        "FP16": lambda model: model,
        "INT8 weights": lambda model: quantized(model, normal, weights_only=True),
        "INT8_PTQ": lambda model: quantized(model, normal, weights_only=False),
    }
    files = [path.with_name(f"{name.replace(' ', '_')}.xml") for name in makers]
    for file, (name, make) in zip(files, makers.items(), strict=True):
        openvino.save_model(make(openvino.Core().read_model(path)), file, compress_to_fp16=name == "FP16")
    runs = [run_openvino(openvino.Core().read_model(file), threads=1) for file in files]
    outputs = [[timed(run, each) for run in runs] for each in test[::every]]
    masks = np.stack([each.mask for each in test[::every]]).ravel()
    for index, (name, file) in enumerate(zip(makers, files, strict=True)):
        row = figures([each[0] for each in outputs], [each[index] for each in outputs], masks)
        size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin"))) / 1e6
        print(TABLE.format(category, shots, name, *row, f"{size:.1f}"), flush=True)


def timed(run: Run, image: CheckedImage) -> tuple[Outputs, float]:
    start = time.perf_counter()
    return run(image.image), 1000 * (time.perf_counter() - start)


def figures(expected: list, actual: list, masks: np.ndarray) -> list[str]:
    score, maps = (
        np.stack([abs(a[name] - b[name]) for (a, _), (b, _) in zip(expected, actual, strict=True)])
        for name in ("raw_score", "raw_map")
    )
    differ = sum(bool(a["pred_label"] != b["pred_label"]) for (a, _), (b, _) in zip(expected, actual, strict=True))
    auroc = roc_auc_score(masks, np.stack([each["raw_map"] for each, _ in actual]).ravel())
    ms = np.median([each for _, each in actual])
    differences = [f"{value:.4f}" for value in (score.max(), score.mean(), maps.max(), maps.mean())]
    return [*differences, f"{differ} of {len(actual)}", f"{auroc:.4f}", f"{ms:.0f}"]


if __name__ == "__main__":
    main()
