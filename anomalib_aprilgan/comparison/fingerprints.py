# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Hashes of the files that results depend on, so that results of other files under the same names do not mix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.utils.download import generate_hash

from anomalib_aprilgan.comparison.grid import Grid, Job
from anomalib_aprilgan.data.masks import mask_files
from anomalib_aprilgan.data.references import draw_references, normal_train_images

Fingerprints = dict[str, str]
Sample = tuple[int, str, tuple[str, ...]]  # label, image and masks
Facts = Mapping[str, Any]  # a row of results, or the like of it
TESTED, REFERENCES, WEIGHTS = "test images", "references", "adapters' weights"
# What these are about; all others are about a model.
ABOUT = {
    TESTED: ["dataset", "category"],
    REFERENCES: ["dataset", "category", "shots", "seed"],
    WEIGHTS: ["model", "dataset"],
}


@dataclass(frozen=True)
class CategoryFiles:
    """The files of a category.

    Args:
        tested: All test images.
        normal: Normal training images, from which references are drawn.
    """

    tested: tuple[Sample, ...]
    normal: tuple[str, ...]

    def fingerprints(self, shots: int, seed: int) -> Fingerprints:
        """The hashes of the test images with their masks, and of the references of a run, if there are enough."""
        found = {TESTED: samples_hash(self.tested)} if self.tested else {}
        references = self.references(shots, seed)
        if references:
            found[REFERENCES] = _digest(map(file_hash, references))
        return found

    def references(self, shots: int, seed: int) -> list[str]:
        """The references of a run; none if there are too few images."""
        return draw_references(self.normal, shots, seed) if 0 < shots <= len(self.normal) else []


Categories = Mapping[str, Mapping[str, CategoryFiles]]  # by data set


def category_files(datamodule: AnomalibDataModule) -> CategoryFiles:
    """The files of a data module that is set up; none if it has no tables of samples."""
    trained = getattr(getattr(datamodule, "train_data", None), "samples", None)
    normal = [] if trained is None else normal_train_images(datamodule)
    return CategoryFiles(tuple(samples_of(getattr(datamodule, "test_data", None))), tuple(normal))


def samples_of(dataset: Any) -> Iterator[Sample]:
    """The samples of a data set; none if it has no table of them."""
    samples = getattr(dataset, "samples", None)
    for row in [] if samples is None else samples.itertuples():
        yield int(row.label_index), str(row.image_path), tuple(mask_files(getattr(row, "mask_path", None)))


def samples_hash(samples: Iterable[Sample]) -> str:
    """The hash of labels, images and masks, whatever their names and order."""
    return _digest(sorted(f"{label} {' '.join(map(file_hash, (image, *masks)))}" for label, image, masks in samples))


def facts_of(job: Job, grid: Grid, categories: Categories, training: Mapping[str, Fingerprints]) -> dict[str, Any]:
    """The keys of a run with its ``arguments``, and the ``fingerprints`` of its files as they are now.

    Args:
        job: The run.
        grid: The comparison.
        categories: The files of each category of each data set.
        training: The fingerprints of what each model's adapters are trained on.
    """
    files = categories[job.dataset][job.category].fingerprints(job.shots, job.seed)
    named = argument_fingerprints(grid.models[job.model].init_args)
    return {
        **asdict(job),
        "arguments": grid.arguments(job.model, job.dataset),
        "fingerprints": {**files, **named, **training.get(job.model, {})},
    }


def argument_fingerprints(arguments: Mapping[str, Any]) -> Fingerprints:
    """The hash of the files that each argument names; arguments that name none are left out."""
    files = {name: sorted(set(_named_files(value))) for name, value in arguments.items()}
    return {name: _digest(map(file_hash, paths)) for name, paths in files.items() if paths}


def _named_files(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _named_files(each)
    elif isinstance(value, str | Path):
        path = str(value).removeprefix("local-dir:")
        if os.path.isfile(path):  # Path("") would be a folder
            yield path
        elif os.sep in path and os.path.isdir(path):  # a word such as "demo" names no folder
            yield from (entry.path for entry in os.scandir(path) if entry.is_file())


def file_hash(path: str | Path) -> str:
    """The hash of a file's content, read again only if the file has changed."""
    state = os.stat(path)  # it is asked for thousands of files
    return _hash(str(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@cache
def _hash(path: str, *_state: int) -> str:
    return generate_hash(Path(path))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def check_unmixed(rows: Iterable[Facts], now: Iterable[Facts], where: str) -> None:
    """Check that results are of the same files, and those of now.

    Args:
        rows: Results, of which only finished ones count. Those of earlier releases have no ``fingerprints``.
        now: The keys of runs with their ``fingerprints``, as they would be now.
        where: The results file.

    Raises:
        ValueError: If a file has other contents than it had for another result.
    """
    known: dict[tuple, str] = {}
    for result, stage in [*((row, "") for row in rows if row["status"] == "ok"), *((each, " now") for each in now)]:
        for about, found in _facts(result):
            if known.setdefault(about, found) != found:
                name, *subject = about
                which = "differ from those that results were made with" if stage else "are not the same in all results"
                msg = (
                    f"The {name} of {'/'.join(map(str, subject))} {which} in {where}, and a table would mix them. "
                    "Put the files back, or choose another `output`, or delete that file (or its lines of "
                    f"{subject[0]}) to run them again."
                )
                raise ValueError(msg)


def _facts(result: Facts) -> Iterator[tuple[tuple, str]]:
    """What each hash of a result is about, and the hash."""
    hashes = {**(result.get("fingerprints") or {}), WEIGHTS: result.get("adapters_sha256")}
    for name, found in hashes.items():
        if found is not None:
            yield (name, *(result[key] for key in ABOUT.get(name, ["model"]))), found
