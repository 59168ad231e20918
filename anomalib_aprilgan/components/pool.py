# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A pool of unlabelled images: its tokens in temporary files, and its scores of these and of other images."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from anomalib_aprilgan import maps
from anomalib_aprilgan.clip.encoder import Encoded
from anomalib_aprilgan.data.references import contents
from anomalib_aprilgan.pool import (
    NEIGHBOURHOODS,
    mapped,
    mean_distance,
    mutual_scores,
    scale,
    scores_against,
    smooth_against,
)
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)

GIGA = 2**30


@dataclass
class Pool:
    """Unlabelled images, and what they say of each other, on the CPU.

    Args:
        files: Number of an image by the hash of its file's content.
        embeddings: Of the images (M, E).
        stages: Patch tokens (M, N, D) of each stage.
        scores: Patch scores (M, N) by the other images.
        maxima: Peaks of the maps that these make (M,).
        score_fraction: Of a map's values whose mean is its peak; 0: the maximum.
    """

    files: dict[str, int]
    embeddings: Tensor
    stages: list[Tensor]
    scores: Tensor
    maxima: Tensor
    score_fraction: float = 0.0

    def numbers(self, paths: Sequence[str]) -> list[int | None]:
        """Of the images in the pool with the content of these files; None: there is none."""
        return [self.files.get(digest) for digest in contents(paths)]

    def encoded(self, numbers: list[int], like: Tensor) -> Encoded:
        """What CLIP said of some images, if the pool's tokens are its own; as ``like`` in type and device."""
        return Encoded(self.embeddings[numbers].to(like), [tokens[numbers].to(like) for tokens in self.stages])

    def rate(
        self, encoded: Encoded, numbers: list[int | None], image_size: int, embeddings: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and maps (B, H, W) by the other images, scaled so that those of the pool are in [0, 1].

        Args:
            encoded: Images.
            numbers: Theirs in the pool; None where an image is not in it.
            image_size: Height and width of maps in pixels.
            embeddings: Whether scores are averaged with those of the distances between embeddings.
        """
        same = torch.tensor([[number == other for other in range(len(self.maxima))] for number in numbers])
        known = [number for number in numbers if number is not None]
        scores = self.scores[known] if len(known) == len(numbers) else self._compare(encoded.compared, same)
        own_maps = maps.resize(scores.unsqueeze(-1), image_size)[:, 0]
        unit, others = F.normalize(encoded.embedding.float().cpu(), dim=-1), F.normalize(self.embeddings, dim=-1)
        cosines = torch.stack([(each * others).sum(dim=-1) for each in unit])  # not a product: autocast would round it
        peaks = maps.map_peaks(own_maps, self.score_fraction)
        maxima, pool = (scale(values, self.maxima) for values in (peaks, self.maxima))
        cosines = cosines.masked_fill(same, -torch.inf)
        score = smooth_against(maxima, cosines, pool)
        if embeddings:
            score = (score + maps.embedding_score(mean_distance(cosines))) / 2
        return score.to(encoded.embedding.device), scale(own_maps, self.scores).to(encoded.embedding.device)

    def _compare(self, stages: Sequence[Tensor], same: Tensor) -> Tensor:
        found = [scores_against([own], [pool], same).cpu() for own, pool in zip(stages, self.stages, strict=True)]
        return mean_of_stages(found)


def mean_of_stages(scores: Sequence[Tensor]) -> Tensor:
    """The mean (B, N) of stages' patch scores, brought to the grid of the stage with the most patches."""
    side = round(max(each.shape[1] for each in scores) ** 0.5)
    grids = [maps.resize(each.unsqueeze(-1), side)[:, 0].flatten(1) for each in scores]
    return torch.stack(grids).mean(dim=0)


def make_pool(model: AprilGanModel, batches: Any, n_images: int, show_progress: bool) -> Pool:
    """The images' pool. Files with the same content count once.

    Args:
        model: That encodes.
        batches: Preprocessed batches of images with paths, on the model's device.
        n_images: Number of the images.
        show_progress: On a terminal.

    Raises:
        ValueError: If there are fewer than two images, an image has no file or is not encoded as finite numbers, or
            the temporary files would not fit.
    """
    hidden = None if show_progress else True
    files: dict[str, int] = {}
    embeddings: list[Tensor] = []
    stages: list[Tensor] = []
    for batch in tqdm(batches, "Encoding the pool", disable=hidden):
        digests = _contents(batch)
        new = [index for index, digest in enumerate(digests) if digest not in {*files, *digests[:index]}]
        if not new:
            continue
        encoded = model.encode(batch.image[new])
        sums = torch.stack([tokens.float().flatten(1).sum(dim=1) for tokens in encoded.compared]).sum(dim=0)
        maps.check_finite(sums, "patch tokens", [batch.image_path[index] for index in new])
        if not stages:
            stages = allocate(encoded.compared, n_images, model.memory.dtype)
        for stored, tokens in zip(stages, encoded.compared, strict=True):
            stored[len(files) : len(files) + len(new)] = tokens.to(stored)
        embeddings.append(encoded.embedding.float().cpu())
        files.update({digests[index]: len(files) + place for place, index in enumerate(new)})
    stages = [tokens[: len(files)] for tokens in stages]
    total = len(stages) * len(NEIGHBOURHOODS) * n_pairs(len(files))
    with tqdm(total=total, desc="Comparing the pool's images", unit=" pairs", disable=hidden) as bar:
        device = model.text_features.device
        scores = mean_of_stages([mutual_scores([each], device=device, advance=bar.update).cpu() for each in stages])
    peaks = [model.map_peaks(maps.resize(each[None, :, None], model.image_size)[:, 0]) for each in scores]
    return Pool(files, torch.cat(embeddings), stages, scores, torch.cat(peaks), model.score_fraction)


def _contents(batch: Any) -> list[str]:
    if batch.image_path is None:
        msg = "A pool tells images apart by their files: the data set must give each image its `image_path`."
        raise ValueError(msg)
    return contents(batch.image_path)


def n_pairs(n_images: int) -> int:
    """The number of pairs of images."""
    return n_images * (n_images - 1) // 2


def allocate(stages: Sequence[Tensor], n_images: int, dtype: torch.dtype) -> list[Tensor]:
    """Room for patch tokens (M, N, D) of each stage in temporary files, after the pool's cost was told.

    Args:
        stages: Patch tokens of some images (B, N, D).
        n_images: Number M of all images.
        dtype: To store tokens in.

    Raises:
        ValueError: If the temporary files would not fit.
    """
    shapes = [tokens.shape[1:] for tokens in stages]
    tokens = n_images * dtype.itemsize * sum(n * width for n, width in shapes)
    needed = tokens + 4 * n_images**2 * max(n for n, _ in shapes)
    operations = len(NEIGHBOURHOODS) * n_pairs(n_images) * sum(2 * n**2 * width for n, width in shapes)
    folder = tempfile.gettempdir()
    cost = (
        f"A pool of {n_images} images takes {operations:.1e} floating-point operations and up to {needed / GIGA:.2f} "
        f"GiB of temporary files in {folder} (TMPDIR)"
    )
    lower = (
        "Both grow with the square of their number; fewer images, a smaller `image_size`, fewer `layers` "
        "(`memory_layers`) or `half_precision_memory` lower them."
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        msg = f"{cost}, where only {free / GIGA:.2f} GiB are free. {lower}"
        raise ValueError(msg)
    logger.info("%s. %s", cost, lower)
    return [mapped(n_images, *shape, dtype=dtype) for shape in shapes]
