# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Test images and masks that are decoded once for all runs of a process, whatever their models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype
from torchvision.tv_tensors import Image

from anomalib_aprilgan.comparison.device import free_memory
from anomalib_aprilgan.data.masks import mask_column, mask_files

NAMES = ("read_image", "read_mask")  # of the functions by which anomalib's data sets read
AT_ONCE = 32  # files that are decoded before the limit is looked at
Reader = Callable[..., Any]
Key = tuple[Reader, str, int, int, int]  # with a path, and the file's state


class DecodedFiles:
    """Images in 8 bits and masks, those last that were used last.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: float = 0) -> None:
        self.limit, self.nbytes = limit, 0
        self._held: dict[Key, Tensor] = {}

    def set_limit(self, limit: float | None, workers: int) -> None:
        """Set the limit: a third of the limit for maps and memory banks; None: an eighth of what is free.

        Args:
            limit: Bytes for maps and memory banks of all workers together.
            workers: Processes that share the limit.
        """
        free = free_memory(torch.device("cpu"))[0] + self.nbytes
        self.limit = (free / 8 if limit is None else limit / 3) / workers

    def clear(self) -> None:
        """Forget all files."""
        self._held, self.nbytes = {}, 0

    @contextlib.contextmanager
    def reading(self, dataset: Any) -> Iterator[None]:
        """Decode a data set's files, and let it take them from here as long as this lasts.

        Processes that load its batches and are forked meanwhile do so too; others decode the files themselves.
        """
        modules = dict.fromkeys(sys.modules[kind.__module__] for kind in type(dataset).__mro__)
        found = [(module, name, vars(module)[name]) for module in modules for name in NAMES if name in vars(module)]
        if self.limit and found and getattr(dataset, "samples", None) is not None:
            self._decode(dataset.samples, {name: reader for _, name, reader in reversed(found)})
        try:
            for module, name, reader in found:
                setattr(module, name, partial(self._read, name, reader))
            yield
        finally:
            for module, name, reader in found:
                setattr(module, name, reader)

    def _read(self, name: str, reader: Reader, path: Any, as_tensor: bool = False) -> Any:
        held = self._held.get(_key(reader, path)) if as_tensor else None
        if held is None:
            return reader(path, as_tensor=as_tensor)
        return _scaled(held) if name == "read_image" else held.clone()

    def _decode(self, samples: Any, readers: Mapping[str, Reader]) -> None:
        """Hold the files of a table of samples, as many as the limit allows; a damaged one is left to its reader."""
        files = [("read_image", str(path)) for path in samples.image_path]
        files += [("read_mask", path) for value in mask_column(samples) for path in mask_files(value)]
        known = [(name, readers[name], path) for name, path in files if name in readers and os.path.exists(path)]
        wanted = {_key(reader, path): (name, reader, path) for name, reader, path in known}
        self._held.update({key: self._held.pop(key) for key in wanted if key in self._held})  # now the last
        missing = [key for key in wanted if key not in self._held]
        with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
            for start in range(0, len(missing), AT_ONCE):
                keys = missing[start : start + AT_ONCE]
                decoded = list(pool.map(_decoded, (wanted[key] for key in keys)))
                if not all(self._hold(key, tensor, wanted) for key, tensor in zip(keys, decoded, strict=True)):
                    break

    def _hold(self, key: Key, decoded: Tensor | None, wanted: Collection[Key]) -> bool:
        """Hold a file in place of those used longest ago; False if there is no room but that of wanted files."""
        if decoded is None:
            return True
        while self.nbytes + decoded.nbytes > self.limit:
            oldest = next(iter(self._held), key)
            if oldest in wanted:
                return False
            self.nbytes -= self._held.pop(oldest).nbytes
        self._held[key] = decoded
        self.nbytes += decoded.nbytes
        return True


def _key(reader: Reader, path: Any) -> Key:
    state = os.stat(path)
    return reader, str(path), state.st_ino, state.st_size, state.st_mtime_ns


def _scaled(levels: Tensor) -> Any:
    return to_dtype(Image(levels), torch.float32, scale=True)  # as ``read_image``


def _decoded(file: tuple[str, Reader, str]) -> Tensor | None:
    """A mask, or an image in 8 bits; None if it can't be read, or has levels between those of 8 bits."""
    name, reader, path = file
    try:
        read: Any = reader(path, as_tensor=True)
    except Exception:  # noqa: BLE001 - the run that needs it will tell
        return None
    if name == "read_mask":
        return read
    levels = (read * 255).round().to(torch.uint8)
    return levels if torch.equal(_scaled(levels), read) else None


DECODED = DecodedFiles()  # of this process
