# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Test images and masks that are decoded once for all runs of a process, whatever their models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from anomalib_aprilgan.compat.memory import free_bytes
from anomalib_aprilgan.data.held_files import HeldFiles, Key, Packed, Reader, key_of, packed_levels
from anomalib_aprilgan.data.masks import mask_column, mask_files

NAMES = ("read_image", "read_mask")  # of the functions by which anomalib's data sets read
AT_ONCE = 32  # files that are decoded before the limit is looked at


@dataclass(frozen=True)
class AsTensor:
    """anomalib's ``read_image`` or ``read_mask``, asked for tensors."""

    reader: Callable[..., Any]

    def __call__(self, path: str) -> Tensor:
        """The image or mask in a file."""
        return self.reader(path, as_tensor=True)


class DecodedFiles(HeldFiles):
    """Files of the data sets that are tested, those last that were used last; they make room for others."""

    def set_limit(self, limit: float | None, workers: int) -> None:
        """Set the limit: a third of the limit for maps and memory banks; None: an eighth of what is free.

        Args:
            limit: Bytes for maps and memory banks of all workers together.
            workers: Processes that share the limit.
        """
        free = free_bytes() + self.nbytes
        self.limit = (free / 8 if limit is None else limit / 3) / workers

    @contextlib.contextmanager
    def reading(self, dataset: Any) -> Iterator[None]:
        """Decode a data set's files, and let it take them from here as long as this lasts.

        Processes that load its batches and are forked meanwhile do so too; others decode the files themselves.
        """
        modules = dict.fromkeys(sys.modules[kind.__module__] for kind in type(dataset).__mro__)
        found = [(module, name, vars(module)[name]) for module in modules for name in NAMES if name in vars(module)]
        if self.limit and found and getattr(dataset, "samples", None) is not None:
            self._decode(dataset.samples, {name: AsTensor(reader) for _, name, reader in reversed(found)})
        try:
            for module, name, reader in found:
                setattr(module, name, partial(self._read, reader))
            yield
        finally:
            for module, name, reader in found:
                setattr(module, name, reader)

    def _read(self, reader: Callable[..., Any], path: Any, as_tensor: bool = False) -> Any:
        return self.read(AsTensor(reader), path) if as_tensor else reader(path, as_tensor=False)

    def _decode(self, samples: Any, readers: Mapping[str, Reader]) -> None:
        """Hold the files of a table of samples, as many as the limit allows; a damaged one is left to its reader."""
        files = [("read_image", str(path)) for path in samples.image_path]
        files += [("read_mask", path) for value in mask_column(samples) for path in mask_files(value)]
        known = [(readers[name], path) for name, path in files if name in readers and os.path.exists(path)]
        wanted = {key_of(reader, path): (reader, path) for reader, path in known}
        self._held.update({key: self._held.pop(key) for key in wanted if key in self._held})  # now the last
        missing = [key for key in wanted if key not in self._held]
        with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
            for start in range(0, len(missing), AT_ONCE):
                keys = missing[start : start + AT_ONCE]
                decoded = list(pool.map(_decoded, (wanted[key] for key in keys)))
                if not all(self._replace(key, packed, wanted) for key, packed in zip(keys, decoded, strict=True)):
                    break

    def _replace(self, key: Key, packed: Packed | None, wanted: Collection[Key]) -> bool:
        """Hold a file in place of those used longest ago; False if there is no room but that of wanted files."""
        if packed is None:
            return True
        while self.nbytes + packed[0].nbytes > self.limit:
            oldest = next(iter(self._held), key)
            if oldest in wanted:
                return False
            self.nbytes -= self._held.pop(oldest)[0].nbytes
        self._add(key, packed)
        return True


def _decoded(file: tuple[Reader, str]) -> Packed | None:
    """What is to be held of a file; None if it can't be read."""
    reader, path = file
    try:
        return packed_levels(reader(path))
    except Exception:  # noqa: BLE001 - the run that needs it will tell
        return None


DECODED = DecodedFiles()  # of this process
