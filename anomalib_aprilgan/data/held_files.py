# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Image and mask files that are decoded once and held in memory, as many as a limit allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype
from torchvision.tv_tensors import TVTensor, wrap

Reader = Callable[[str], Tensor]  # one that is equal to itself whenever it is made, as functions are
Key = tuple[Reader, str, int, int, int]  # with a path, and the file's state
Packed = tuple[Tensor, bool]  # with whether it is an image, whose 256 levels stand for those from 0 to 1


class HeldFiles:
    """Images in 8 bits and masks. What is read from here is equal to the bit to what the reader returns.

    Processes that are forked share what is held; in others it is empty, and files are read.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: float = 0) -> None:
        self.limit, self.nbytes = limit, 0
        self._held: dict[Key, Packed] = {}
        self._lock = Lock()

    def __reduce__(self) -> Any:
        """Nothing of it is copied."""
        return type(self), ()

    def clear(self) -> None:
        """Forget all files."""
        self._held, self.nbytes = {}, 0

    def read(self, reader: Reader, path: Any) -> Tensor:
        """What the reader returns of a file, from here if it is held and has not changed since."""
        held = self._held.get(key_of(reader, path)) if self._held else None
        if held is None:
            return reader(path)
        return _scaled(held[0]) if held[1] else held[0].clone()

    def hold(self, reader: Reader, path: Any) -> Tensor:
        """What the reader returns of a file, which is held from now on if there is room, by any number of threads."""
        key, read = key_of(reader, path), reader(path)
        packed = packed_levels(read)
        with self._lock:
            if packed is not None and key not in self._held and self.nbytes + packed[0].nbytes <= self.limit:
                self._add(key, packed)
        return read

    def _add(self, key: Key, packed: Packed) -> None:
        self._held[key] = packed
        self.nbytes += packed[0].nbytes


def key_of(reader: Reader, path: Any) -> Key:
    """A file in the state that it is in, and how it is read."""
    state = os.stat(path)
    return reader, str(path), state.st_ino, state.st_size, state.st_mtime_ns


def packed_levels(read: Tensor) -> Packed | None:
    """What is held of a file; None for an image with levels between those of 8 bits."""
    if not read.is_floating_point():
        return read.clone(), False
    levels = (read * 255).round().to(torch.uint8)
    levels = wrap(levels, like=read) if isinstance(read, TVTensor) else levels
    return (levels, True) if torch.equal(_scaled(levels), read) else None


def _scaled(levels: Tensor) -> Tensor:
    """8-bit levels from 0 to 1, as anomalib's ``read_image`` rounds them."""
    return torch.as_tensor(to_dtype(levels, torch.float32, scale=True))
