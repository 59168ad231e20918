# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a test image in a comparison's second run, where it was decoded before, against its decoding by anomalib.

python benchmarks/decoding.py             # PNG files of 224 and 1024 pixels, seconds
python benchmarks/decoding.py --quick     # of 224 pixels
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from anomalib.data import Folder
from PIL import Image, ImageFilter

from anomalib_aprilgan.comparison.decoded_files import DecodedFiles

FILES, REPEATS = 4, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for side in (224,) if options.quick else (224, 1024):
        with tempfile.TemporaryDirectory() as name:
            for number in range(FILES):  # blurred noise compresses like a photograph
                noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
                noise.filter(ImageFilter.GaussianBlur(2)).save(Path(name) / f"{number}.png")
            datamodule = Folder("noise", ".", root=name, test_split_mode="none", val_split_mode="none")
            datamodule.setup()
            dataset, decoded = datamodule.train_data, DecodedFiles(limit=2**30)
            plain = processor_time(lambda dataset=dataset: [dataset[index].image for index in range(FILES)])
            with decoded.reading(dataset):
                again = processor_time(lambda dataset=dataset: [dataset[index].image for index in range(FILES)])
        print(f"{side} pixels: decoded {plain:.1f} ms, held {again:.1f} ms an image; ratio {plain / again:.1f}")


def processor_time(read: Callable[[], object]) -> float:
    """Milliseconds of the CPU for an image, whatever else the machine does."""
    read()
    start = time.process_time()
    for _ in range(REPEATS):
        read()
    return (time.process_time() - start) / (REPEATS * FILES) * 1000


if __name__ == "__main__":
    main()
