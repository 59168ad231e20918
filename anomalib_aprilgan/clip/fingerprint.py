# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Hashes that tell networks apart by their weights."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

SAMPLED_LENGTH = 16


class WeightsHash:
    """Hashes all values of a state dict. A tensor is read once, and again after it was replaced or changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], bytes]] = {}

    def __call__(self, state: dict[str, Tensor]) -> str:
        """Return 32 hexadecimal digits, which depend on names, shapes and values in float32."""
        names = sorted(state)
        with ThreadPoolExecutor() as pool:  # hashlib releases the interpreter's lock
            digests = pool.map(self._digest, names, [state[name] for name in names])
            return hashlib.sha256(b"".join(digests)).hexdigest()[:32]

    def _digest(self, name: str, tensor: Tensor) -> bytes:
        version = (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)  # noqa: SLF001  # no public name
        if name not in self._known or self._known[name][0] != version:
            digest = hashlib.sha256(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().flatten().numpy().data)
            self._known[name] = version, digest.digest()
        return self._known[name][1]


def sampled_hash(state: dict[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that depend on 16 values per tensor, as checkpoints once held them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sample = tensor.detach().flatten()[:: max(1, tensor.numel() // 16)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:SAMPLED_LENGTH]
