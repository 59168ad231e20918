# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which references a checkpoint is to have: those that it has, less some, with others; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anomalib.data.utils.download import generate_hash

from anomalib_aprilgan.data.images import unreadable
from anomalib_aprilgan.data.listing import is_hidden, named
from anomalib_aprilgan.data.references import contents, folder_images, now
from anomalib_aprilgan.target import CHANGED, References

NO_TIME = "not recorded"


@dataclass(frozen=True)
class Change:
    """Other references for a checkpoint.

    Args:
        kept: Indices of the references that stay.
        references: Those to be: first those that stay, in this order, then new ones.
        notes: What the user must know.
    """

    kept: list[int]
    references: References
    notes: list[str]


Plan = Callable[[References], Change]


def added(sources: Sequence[Path]) -> Plan:
    """A plan to add images, files or folders of them. Those that are there already are named."""

    def plan(known: References) -> Change:
        _check_that_files_are_known(known)
        new, same, copies = _split(sources, known)
        moved = {file: index for file, index in same.items() if not is_unchanged(known, index)}
        there = [file for file in same if file not in moved]
        if not new and not moved:
            msg = f"Nothing to add: {named(there)}: already references, perhaps under another name."
            raise ValueError(msg)
        every = range(len(known.paths))
        return Change([*every], _changed(_moved(known, moved), every, new), _notes(there, copies, moved))

    return plan


def dropped(names: Sequence[str]) -> Plan:
    """A plan to drop references by path, file name or number from 1."""

    def plan(known: References) -> Change:
        out = {index for name in names for index in _find(known, name)}
        kept = [index for index in range(len(known.paths)) if index not in out]
        if not kept:
            msg = (
                "No reference would be left, and the model would be another one, zero-shot: replace the references "
                "(aprilgan references replace), or make a model with `k_shot` 0."
            )
            raise ValueError(msg)
        dropped_paths = named([known.paths[index] for index in sorted(out)])
        return Change(kept, _changed(known, kept, {}), [f"Dropped: {dropped_paths}"])

    return plan


def replaced(sources: Sequence[Path]) -> Plan:
    """A plan to have these images as references, and no others."""

    def plan(known: References) -> Change:
        new, same, copies = _split(sources, known)
        kept = sorted(same.values())
        return Change(kept, _changed(_moved(known, same), kept, new), _notes([], copies, {}))

    return plan


def _moved(known: References, places: dict[str, int]) -> References:
    """The references with other files of the same content."""
    files = {index: file for file, index in places.items()}
    return replace(known, paths=tuple(files.get(index, path) for index, path in enumerate(known.paths)))


def _notes(there: Iterable[str], copies: Iterable[str], moved: Iterable[str]) -> list[str]:
    kinds = {"Left out, already references": there, "Left out, copies": copies, "Found again": moved}
    return [f"{kind}: {named(files)}" for kind, files in kinds.items() if files]


def _split(sources: Sequence[Path], known: References) -> tuple[dict[str, str], dict[str, int], list[str]]:
    """Digests of new files; indices of the references that others are; files with the content of one of both."""
    files = given_files(sources)
    places = {digest: index for index, digest in reversed([*enumerate(known.digests)])}
    new: dict[str, str] = {}
    same: dict[str, int] = {}
    copies: list[str] = []
    for file, digest in zip(files, contents(files), strict=True):
        if digest in new.values() or places.get(digest) in same.values():
            copies.append(file)
        elif digest in places:
            same[file] = places[digest]
        else:
            new[file] = digest
    return new, same, copies


def given_files(sources: Sequence[Path]) -> list[str]:
    """The absolute paths of images, given as files or folders.

    Raises:
        ValueError: If one is missing, hidden or can't be read, naming all of them.
    """
    files, faults = [], []
    for source in sources:
        try:
            if not source.is_dir() and is_hidden(source, source.parent):
                raise ValueError(f"{str(source)!r} is a hidden file: give it another name.")  # noqa: EM102
            files += folder_images(source, "The file or folder")
        except ValueError as error:
            faults.append(str(error))
    faults += unreadable(dict.fromkeys(files)).values()
    if faults:
        raise ValueError("\n".join(["Nothing was changed.", *faults]))
    return list(dict.fromkeys(files))


def _find(known: References, name: str) -> list[int]:
    """The indices of the references that a path, file name or number means.

    Raises:
        ValueError: If it means none, or files in several folders, naming what is there.
    """
    wanted = {name, str(Path(name).absolute())}
    found = [index for index, path in enumerate(known.paths) if path in wanted]
    found = found or [index for index, path in enumerate(known.paths) if Path(path).name == name]
    if not found and name.isdecimal() and 0 < int(name) <= len(known.paths):
        found = [int(name) - 1]
    if len({known.paths[index] for index in found}) != 1:
        there = "; ".join(f"{number} {path}" for number, path in enumerate(known.paths, 1)) or "none"
        fault = "means several references: give the path or the number" if found else "is none of the references"
        msg = f"{name!r} {fault}. There are: {there}."
        raise ValueError(msg)
    return found


def _changed(known: References, kept: Sequence[int], new: dict[str, str]) -> References:
    """Some of the known references and new files with their digests."""
    times = known.added or (NO_TIME,) * len(known.paths)
    return replace(
        known,
        digests=(*(known.digests[index] for index in kept), *new.values()),
        paths=(*(known.paths[index] for index in kept), *new),
        added=(*(times[index] for index in kept), *[now()] * len(new)),
        source=CHANGED,
    )


def digest_of(path: str) -> str:
    """The hash of a file's content, or "missing"."""
    return generate_hash(Path(path)) if Path(path).is_file() else "missing"


def is_unchanged(known: References, index: int) -> bool:
    """Whether the file of a reference is there and has the content that it had."""
    return digest_of(known.paths[index]) == known.digests[index] != "missing"


def _check_that_files_are_known(known: References) -> None:
    if len(known.digests) != len(known.paths):
        msg = "The references in this checkpoint were given as tensors, without files: replace them all."
        raise ValueError(msg)
