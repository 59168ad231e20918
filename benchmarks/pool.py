# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a pool's mutual scores against naive renditions that compare every two images twice, and memory (Linux).

python benchmarks/pool.py             # one stage of ViT-L/14 at 518 pixels, 12 images; memory of up to 48
python benchmarks/pool.py --quick     # at 224 pixels
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from timing import best_times
from torch import Tensor

from anomalib_aprilgan.pool import NEAREST, local_tokens, mapped, mutual_scores

WIDTH, R = 1024, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    patches, n_images = (256, 12) if quick else (1369, 12)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Like a camera's images: what is at a place is alike.
    tokens = torch.randn(patches, WIDTH, device=device) + torch.randn(n_images, patches, WIDTH, device=device)
    with torch.inference_mode():
        times(tokens, repeats=2)
        if device == "cpu":
            memory(patches, (32, 64, 96) if quick else (12, 24, 48))


def times(tokens: Tensor, repeats: int) -> None:
    results: dict[str, Tensor] = {}

    def run(name: str, function: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: results.update({name: function()})

    functions = {
        "ours": run("ours", lambda: mutual_scores([tokens], (R,))),
        "naive, products": run("naive, products", lambda: naive(tokens, by_product)),
        "naive, cdist": run("naive, cdist", lambda: naive(tokens, by_cdist)),
    }
    found = best_times(functions, repeats)
    print(f"{len(tokens)} images of {tokens.shape[1]} patches, one stage, r = {R}, {tokens.device.type}: seconds,")
    print("time of ours / theirs, largest difference of a score")
    for name, seconds in found.items():
        difference = (results[name].cpu() - results["ours"].cpu()).abs().max()
        print(f"{name:16} {seconds:7.2f} {found['ours'] / seconds:6.2f} {difference:9.1e}")


def naive(tokens: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    rows = local_tokens(tokens, R)
    scores = []
    for i, own in enumerate(rows):
        distances = torch.stack([distance(own, other) for j, other in enumerate(rows) if j != i])
        scores.append(distances.sort(dim=0).values[: int(NEAREST * len(distances))].mean(dim=0))
    return torch.stack(scores)


def by_product(own: Tensor, other: Tensor) -> Tensor:
    return (2 - 2 * (own @ other.mT).amax(dim=1)).clamp(min=0).sqrt()


def by_cdist(own: Tensor, other: Tensor) -> Tensor:
    return torch.cdist(own, other).amin(dim=1)


def memory(patches: int, sizes: tuple[int, ...]) -> None:
    print("\nimages, their tokens and distances in temporary files, peak of memory beside these, in MiB")
    for n_images in sizes:
        tokens = mapped(n_images, patches, WIDTH)
        for image in tokens:
            image.normal_()
        files = 4 * n_images * patches * (WIDTH + n_images) / 2**20
        with peak() as most:
            mutual_scores([tokens], (R,))
        print(f"{n_images:4} {files:6.0f} MiB {most[0]:6.0f} MiB")


@contextmanager
def peak() -> Iterator[list[float]]:
    """The most memory in MiB, without pages of files, that is used in the block beyond what was used before."""
    before, most, end = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not end.wait(0.01):
            most[0] = max(most[0], anonymous() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    yield most
    end.set()
    thread.join()


def anonymous() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
