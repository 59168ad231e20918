# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of the memory search against one plain product of all tokens with all rows, in one run.

python benchmarks/memory_search.py             # one image, banks of 1, 4 and 10 images: ViT-L/14 at 518 pixels
python benchmarks/memory_search.py --quick     # a bank of 1 image
"""

from __future__ import annotations

import argparse

import torch
from timing import best_times
from torch.nn import functional as F

from anomalib_aprilgan.memory import nearest_distance

TOKENS, WIDTH = 1369, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = torch.randn(1, TOKENS, WIDTH, device=device)
    print(f"one image and stage, {device}: milliseconds; plain / ours; plain in float32 / ours in bfloat16")
    for shots in (1,) if parser.parse_args().quick else (1, 4, 10):
        bank = F.normalize(torch.randn(shots * TOKENS, WIDTH, device=device), dim=-1)

        def plain(bank: torch.Tensor = bank) -> torch.Tensor:
            return 1 - (F.normalize(tokens, dim=-1) @ bank.mT).amax(dim=-1)

        def ours(bank: torch.Tensor = bank) -> torch.Tensor:
            return nearest_distance(tokens, bank)

        def half(bank: torch.Tensor = bank) -> torch.Tensor:
            with torch.autocast(device, dtype=torch.bfloat16):
                return nearest_distance(tokens, bank)

        with torch.inference_mode():
            times = best_times({"plain": plain, "ours": ours, "bfloat16": half}, repeats=8)
        columns = "  ".join(f"{name} {1000 * seconds:6.1f}" for name, seconds in times.items())
        ratios = [times["plain"] / times[name] for name in ("ours", "bfloat16")]
        print(f"{shots:2}-shot: {columns}   {ratios[0]:.2f}   {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
