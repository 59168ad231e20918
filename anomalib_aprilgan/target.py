# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What the model looks for: a class name, the reference images, and what the model makes of both."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from anomalib_aprilgan.prompts import check_class_name

logger = logging.getLogger(__name__)

RUN, CHECKPOINT, HAND = "run", "checkpoint", "hand"
CHANGED = "aprilgan references"


@dataclass(frozen=True)
class TargetRequest:
    """What the arguments of AprilGan ask for, before a data module is known.

    Args:
        class_name: Word for the inspected object in the prompts. None: the data module's category.
        k_shot: Number of reference images.
        source: Folder from which they are drawn, or the list of exactly these images. None: the data module's normal
            training images.
        with_replacement: Whether an image may be drawn again.
        seed: Of the draw.
        coreset_sampling_ratio: Fraction of each reference's patch tokens that memory banks keep.
        banks: What else of the memory banks differs from the paper (``BankOptions.changed``).

    Raises:
        ValueError: If ``k_shot`` is negative or the class name is empty.
    """

    class_name: str | None = None
    k_shot: int = 0
    source: Any = None
    with_replacement: bool = False
    seed: int = 0
    coreset_sampling_ratio: float = 1.0
    banks: str = ""

    def __post_init__(self) -> None:
        if self.k_shot < 0:
            msg = f"`k_shot` must be 0 (zero-shot) or the number of reference images, got {self.k_shot}."
            raise ValueError(msg)
        if self.source and not self.k_shot:
            logger.warning(
                "`few_shot_source` is not used while `k_shot` is 0: set `k_shot` to the number of references."
            )
        if self.class_name is not None:
            check_class_name(self.class_name)

    @property
    def draw(self) -> tuple[int, bool, int, float, str]:
        """All that decides which patch tokens are drawn from a source."""
        return self.k_shot, self.with_replacement, self.seed, self.coreset_sampling_ratio, self.banks


@dataclass(frozen=True)
class References:
    """The reference images of a target and how they were drawn.

    Two are equal if their files have the same content in the same order, whatever the files are called.

    Args:
        digests: Hash of the content of each file. Empty if it is not known: no references, or an old checkpoint.
        coreset_sampling_ratio: Fraction of each image's patch tokens that the memory banks keep.
        paths: Of the files. Empty if the images were given as a tensor.
        source: Folder or list from which they were drawn, as text. None: the data module. CHANGED: that command set
            them, and no argument of a model replaces them.
        with_replacement: Whether an image could be drawn again.
        seed: Of the draw.
        banks: What else of the memory banks differs from the paper.
        added: When each image became a reference, in ISO 8601 with the time zone. Empty: an old checkpoint.
    """

    digests: tuple[str, ...] = ()
    coreset_sampling_ratio: float = 1.0
    paths: tuple[str, ...] = field(default=(), compare=False)
    source: str | None = field(default=None, compare=False)
    with_replacement: bool = field(default=False, compare=False)
    seed: int = field(default=0, compare=False)
    banks: str = ""
    added: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        folders: dict[str, list[str]] = {str(Path(path).parent): [] for path in self.paths}
        for path in self.paths:
            folders[str(Path(path).parent)].append(Path(path).name)
        return "; ".join(f"{', '.join(names)} in {folder}" for folder, names in folders.items()) or "none"

    @classmethod
    def of_pixels(cls, images: Tensor | None, coreset_sampling_ratio: float, banks: str = "") -> References:
        """Reference images (K, 3, H, W) without files, which are told apart by their pixels alone."""
        pixels = [] if images is None else [image.float().cpu().numpy().tobytes() for image in images]
        digests = tuple(hashlib.sha256(each).hexdigest() for each in pixels)
        return cls(digests, coreset_sampling_ratio, banks=banks)

    @property
    def draw(self) -> tuple[int, bool, int, float, str]:
        """All that decided which patch tokens were drawn from the source."""
        return len(self.paths), self.with_replacement, self.seed, self.coreset_sampling_ratio, self.banks


@dataclass(frozen=True)
class Target:
    """What is looked for, and what an AprilGanModel makes of it. Equal if class name and references are.

    Args:
        class_name: Word for the inspected object in the prompts.
        references: The reference images.
        text_features: Unit rows normal and abnormal (2, E).
        banks: Memory bank (K * N, D) of each stage. Empty: zero-shot.
        score_bounds: Range (2,) of the anomaly maps' peaks over validation images; NaN: not validated.
        origin: RUN, set by a run for its data, which the next run replaces; CHECKPOINT, loaded; or HAND, set by
            ``AprilGanModel.setup``.
    """

    class_name: str
    references: References
    text_features: Tensor = field(compare=False, repr=False)
    banks: tuple[Tensor, ...] = field(compare=False, repr=False)
    score_bounds: Tensor = field(compare=False, repr=False)
    origin: str = field(default=RUN, compare=False)

    @property
    def is_few_shot(self) -> bool:
        """Whether there are reference images."""
        return len(self.banks) > 0

    def record(self) -> dict[str, Any]:
        """Class name and references as plain values, for a checkpoint. Its tensors are in the state dict."""
        facts = asdict(self.references).items()
        references = {key: list(value) if isinstance(value, tuple) else value for key, value in facts}
        return {"class_name": self.class_name, "references": references, "origin": self.origin}


def read_record(record: dict[str, Any]) -> tuple[str, References, str]:
    """Class name, references and origin of a target in a checkpoint."""
    references = References(**record["references"])
    lists: dict[str, Any] = {name: tuple(getattr(references, name)) for name in ("digests", "paths", "added")}
    references = replace(references, **lists)
    return record["class_name"], references, HAND if record["origin"] == HAND else CHECKPOINT


def read_version_1(ours: dict[str, Any]) -> tuple[str | None, References, str]:
    """Class name, references and origin in a checkpoint of version 1, which stored no hashes of files."""
    # The list ends with the coreset's ratio only if that is not 1.
    _, _, source, with_replacement, seed, *ratio = ours["target"] or [None, 0, None, False, 0]
    references = References(
        paths=tuple(ours["reference_paths"]),
        source=None if str(source) == "None" else str(source),
        with_replacement=with_replacement,
        seed=seed,
        coreset_sampling_ratio=ratio[0] if ratio else 1.0,
    )
    return ours["class_name"], references, HAND if ours["target"] is None else CHECKPOINT
