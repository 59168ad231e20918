# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which images of a folder cover it best, to be references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from anomalib_aprilgan.data.images import read_rgb, readable
from anomalib_aprilgan.data.references import contents, folder_images, read_references
from anomalib_aprilgan.safe_io import write_whole
from anomalib_aprilgan.torch_model import AprilGanModel

SAME = 1e-3  # distance of two unit embeddings of one picture, saved in two formats
NEIGHBOURS = 3  # an image that so few others are like is no outlier
COLUMNS, SIDE = 6, 256  # of the contact sheet; pixels


@dataclass(frozen=True)
class Choice:
    """Images of a folder that cover it, and what was left out.

    Args:
        chosen: Paths, the most typical image first, then always the one that those before cover worst.
        radii: Of each number of chosen images: largest distance of an image to the nearest chosen one. Distances are
            those of unit embeddings, in [0, 2].
        farthest: Image at the last of these distances.
        typical: Median distance of an image to its nearest neighbour.
        outliers: Images that are unlike all others, each with the mean distance to its nearest neighbours.
        copies: Images that are the same as another, with that one.
    """

    chosen: list[str]
    radii: list[float]
    farthest: str
    typical: float
    outliers: dict[str, float]
    copies: dict[str, str]

    def lines(self) -> list[str]:
        """The report."""
        steps = [number for number in (1, 2, 4, 8, 16, 32, 64) if number < len(self.chosen)] + [len(self.chosen)]
        radii = ", ".join(f"{number}: {self.radii[number - 1]:.3f}" for number in steps)
        return [
            *self.chosen,
            f"Largest distance of an image to the nearest of so many chosen ones: {radii}",
            f"Farthest: {self.farthest}. Between neighbours in the folder, the median distance is {self.typical:.3f}.",
            *(f"Left out, the same as {Path(other).name}: {path}" for path, other in self.copies.items()),
            *(f"Left out, unlike all others ({far:.3f}): {path}" for path, far in self.outliers.items()),
        ]


def choose(model: AprilGanModel, transform: Callable[[Tensor], Tensor], folder: Path, k: int) -> Choice:
    """The ``k`` images of a folder that cover it best: k-center on image embeddings.

    Args:
        model: Whose encoder makes the embeddings.
        transform: Makes an image (3, H, W) in [0, 1] the model's input.
        folder: Of normal images.
        k: Number of images.

    Raises:
        ValueError: If there are too few images.
    """
    files = [str(path) for path in readable(folder_images(folder, "The folder"))]
    digests = contents(files)
    _check(k, len(set(digests)), f"{folder} has so many different images")  # before they are encoded
    distances = _distances(model, transform, files)
    copies = find_copies(distances, digests)
    rest = [index for index in range(len(files)) if index not in copies]
    outliers = {rest[index]: far for index, far in find_outliers(distances[rest][:, rest]).items()}
    rest = [index for index in rest if index not in outliers]
    named = ", ".join(files[index] for index in outliers)
    _check(k, len(rest), f"so many images are left without {len(copies)} copies and these outliers: {named}")
    near = distances[rest][:, rest]
    chosen, radii = k_center(near, k)
    covered = near[:, chosen].amin(dim=1)
    return Choice(
        [files[rest[index]] for index in chosen],
        radii,
        files[rest[int(covered.argmax())]],
        float(near.fill_diagonal_(torch.inf).amin(dim=1).median()) if len(rest) > 1 else 0.0,
        {files[index]: far for index, far in outliers.items()},
        {files[index]: files[other] for index, other in copies.items()},
    )


def _check(k: int, available: int, reason: str) -> None:
    if not 0 < k <= available:
        msg = f"`-k` must be a number from 1 to {available} ({reason}); got {k}."
        raise ValueError(msg)


def _distances(model: AprilGanModel, transform: Callable[[Tensor], Tensor], files: Sequence[str]) -> Tensor:
    """Distances (N, N) in [0, 2] between the unit embeddings of images."""
    device = model.text_features.device
    with torch.no_grad():
        parts = [
            model.encode(read_references([file], transform).to(device)).embedding
            for file in tqdm(files, desc="images", disable=None)
        ]
    embeddings = F.normalize(torch.cat(parts).double().cpu(), dim=-1)
    return torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")


def k_center(distances: Tensor, k: int) -> tuple[list[int], list[float]]:
    """Indices of ``k`` points, and the largest distance of a point to the nearest of the first 1, 2, ... of them.

    Greedy, which is at most twice the best radius. Differs from anomalib's ``KCenterGreedy``: it begins with the most
    central point instead of a random one, and no random projection changes the distances.

    Args:
        distances: Between all points, (N, N).
        k: From 1 to N.
    """
    chosen = [int(distances.sum(dim=1).argmin())]
    nearest = distances[chosen[0]]
    radii = [float(nearest.max())]
    while len(chosen) < k:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[chosen[-1]])
        radii.append(float(nearest.max()))
    return chosen, radii


def find_copies(distances: Tensor, digests: Sequence[str]) -> dict[int, int]:
    """Points that are the same as one before them, by content or by distance (N, N), with that one."""
    copies: dict[int, int] = {}
    for index in range(len(digests)):
        same = [
            other
            for other in range(index)
            if other not in copies and (digests[other] == digests[index] or distances[index, other] < SAME)
        ]
        if same:
            copies[index] = same[0]
    return copies


def find_outliers(distances: Tensor) -> dict[int, float]:
    """Points whose mean distance to their nearest neighbours is far out by Tukey's rule, with that distance.

    Args:
        distances: Between all points, (N, N).
    """
    neighbours = min(NEIGHBOURS, len(distances) - 1)
    if neighbours < 1:
        return {}
    means = distances.topk(neighbours + 1, largest=False).values[:, 1:].mean(dim=1)  # the first is the point itself
    low, high = means.quantile(torch.tensor([0.25, 0.75], dtype=means.dtype)).tolist()
    return {index: mean for index, mean in enumerate(means.tolist()) if mean > high + 3 * (high - low)}


def draw(choice: Choice, path: Path) -> None:
    """Write a contact sheet: the chosen images, then the outliers."""
    titles = {file: f"{number} {Path(file).name}" for number, file in enumerate(choice.chosen, 1)}
    titles |= {file: f"outlier: {Path(file).name}" for file in choice.outliers}
    rows = -(-len(titles) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (file, title) in zip(axes, titles.items(), strict=False):
        axis.imshow(_small(file))
        axis.set_title(title, fontsize=8, color="firebrick" if file in choice.outliers else "black", parse_math=False)
    write_whole(path, partial(figure.savefig, format=path.suffix[1:] or "png", dpi=120))


def _small(file: str) -> NDArray:
    """The image (H, W, 3), so that its longer side has at most ``SIDE`` pixels."""
    image = read_rgb(file)
    step = -(-max(image.shape[-2:]) // SIDE)
    return F.avg_pool2d(image, step, ceil_mode=True).permute(1, 2, 0).numpy()
