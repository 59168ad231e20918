# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Which files are images by their names, in folders and in data sets; what is left out is named in the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib_aprilgan.compat.anomalib import use_listing
from anomalib_aprilgan.compat.datasets import use_visible_files
from anomalib_aprilgan.compat.masks import use_mask_reader
from anomalib_aprilgan.data.images import SUFFIXES

logger = logging.getLogger(__name__)

NAMED_FILES = 5
# Of macOS, Python, Synology's and Windows' file managers.
HIDDEN_NAMES = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini"}


def is_hidden(path: str | Path, root: str | Path) -> bool:
    """Whether a file, or a folder between it and ``root``, is one that Jupyter, macOS or an editor keeps for itself."""
    path, root = Path(path).absolute(), Path(root).absolute()
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-2:]
    return any(map(_is_hidden_name, parts))


def _is_hidden_name(name: str) -> bool:
    return name.startswith(".") or name.endswith(("~", "#")) or name in HIDDEN_NAMES


def image_files(path: str | Path) -> list[Path]:
    """The image files in and below a folder and the folders it links to, sorted; or the one file.

    Hidden files do not count. The log names in one line what else is left out.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no image.
    """
    path = Path(path)
    if not path.exists():
        msg = f"Path does not exist: {str(path)!r}."
        raise FileNotFoundError(msg)
    root = path.resolve() if path.is_dir() else path.parent.resolve()
    files = sorted(_walk(root)) if path.is_dir() else [root / path.name]
    reasons = {file: _reason(file) for file in files}
    left_out = {str(file.relative_to(root)): reason for file, reason in reasons.items() if reason}
    if len(left_out) == len(files):
        msg = f"Found 0 images in {str(path)!r}. {_reasoned(left_out)}"
        raise ValueError(msg)
    if left_out:
        logger.warning("Left out of %r: %s", str(path), _reasoned(left_out))
    return [file for file, reason in reasons.items() if not reason]


def _walk(root: Path) -> Iterator[Path]:
    """The files in and below a folder, not hidden ones. Each linked folder is walked once, after those that are there.

    A link to a folder above would lead to files that nobody meant.
    """
    seen, waiting = set(), [str(root)]
    for start in waiting:
        for folder, folders, names in os.walk(start):
            real = os.path.realpath(folder)
            if real in seen or (folder != str(root) and root.is_relative_to(real)):
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not _is_hidden_name(name))
            waiting += [link for name in folders if os.path.islink(link := os.path.join(folder, name))]
            yield from (Path(folder, name) for name in names if not _is_hidden_name(name))


def _reason(file: Path) -> str:
    """Why a file is left out; empty if it is not."""
    if file.suffix.lower() not in SUFFIXES:
        return "not named as an image"
    if not file.exists():
        return "a broken link"
    return "" if file.is_file() else "a pipe or device"


def named(files: Iterable[str]) -> str:
    """Some of the files, and how many more there are."""
    files = list(files)
    more = [f"and {len(files) - NAMED_FILES} more"] if len(files) > NAMED_FILES else []
    return ", ".join([*files[:NAMED_FILES], *more])


def _reasoned(reasons: dict[str, str]) -> str:
    return named(f"{name!r} ({reason})" for name, reason in reasons.items())


def take_over_listing() -> None:
    """Have anomalib list files to predict, and folders of ``Folder``, as ``image_files`` does.

    Its data sets then take no hidden file, and read masks without noise.
    """
    use_listing(image_files)
    use_visible_files(_is_visible)
    use_mask_reader()


def _is_visible(path: Path, root: Path) -> bool:
    """Whether a file in a data set counts. Raise ValueError if it is named as an image and can't be one."""
    if is_hidden(path, root):
        return False
    if path.suffix.lower() in SUFFIXES and not path.is_dir() and (reason := _reason(path)):
        msg = f"{str(path)!r} is {reason}: remove it, and its image or mask."
        raise ValueError(msg)
    return True


def leave_hidden_out_of(datamodule: Any) -> None:
    """``leave_out_hidden`` for all images of a data module that is set up."""
    datasets = [getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test")]
    leave_out_hidden(datasets, getattr(datamodule, "root", None))


def leave_out_hidden(datasets: Sequence[Any], root: str | Path | None = None) -> None:
    """Remove hidden files, which anomalib's data sets count, and name files of images that these do not list.

    Args:
        datasets: Those of anomalib have tables of samples; others are left alone.
        root: Folder below which names are looked at. None: the last folder of each file.
    """
    listed: list[Path] = []
    for dataset in datasets:
        samples: Any = getattr(dataset, "samples", None)
        if not hasattr(samples, "image_path"):
            continue
        paths = samples.image_path.map(Path)
        hidden = paths.map(lambda path: is_hidden(path, root or path.parents[1])).astype(bool)
        if hidden.any():
            logger.warning("Left out: %d hidden files, such as %r", hidden.sum(), str(paths[hidden].iloc[0]))
            dataset.samples = samples[~hidden]
        listed.extend(paths[~hidden])
    missed = {str(path): "not listed" for path in _unlisted(listed)}
    if missed:
        logger.warning("anomalib's data sets do not look at %s: convert images, copy linked folders", _reasoned(missed))


def _unlisted(listed: Sequence[Path]) -> list[Path]:
    """Images of kinds that are not listed, and linked folders, that lie beside listed images."""
    suffixes = SUFFIXES - {path.suffix.lower() for path in listed}
    beside = {path for folder in {path.parent for path in listed} for path in folder.iterdir()} - {*listed}
    links = {path for path in beside if path.is_symlink() and path.is_dir()}
    images = {path for path in beside if path.suffix.lower() in suffixes and path.is_file()}
    return sorted(path for path in links | images if not _is_hidden_name(path.name))
