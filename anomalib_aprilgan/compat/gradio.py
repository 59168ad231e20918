# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workaround for gradio, which keeps what visitors send until it is some seconds old; seen in 6.31."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any


class Uploads(set[str]):
    """The files that visitors have sent, each of which is deleted once all who sent it have their answer.

    gradio names a file by its content, so that visitors who send the same share it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sent: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._lock = Lock()

    def update(self, *paths: Iterable[str]) -> None:
        """Add files, as gradio does after each upload."""
        with self._lock:
            for sent in map(list, paths):
                super().update(sent)
                self._sent.update(sent)

    @contextmanager
    def answering(self, paths: Sequence[str]) -> Iterator[None]:
        """Deletes the files after the block, unless it failed or another visitor waits for an answer about them."""
        files = [str(path) for path in paths]
        with self._lock:
            self._used.update(files)
        done = False
        try:
            yield
            done = True
        finally:
            with self._lock:
                self._used.subtract(files)
                if done:
                    self._sent -= Counter(files)  # a file may be an image and a reference of one visitor
                for path in self.intersection(files):
                    if not (self._used[path] or self._sent[path]):
                        self._delete(path)

    def _delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)
        self.discard(path)
        del self._used[path], self._sent[path]


def watch_uploads(page: Any) -> Uploads:
    """Have a page (``gradio.Blocks``) note its uploads in a set of ours; it has no public way."""
    page.upload_file_set = Uploads()
    page.temp_file_sets[0] = page.upload_file_set
    uploads: Uploads = page.upload_file_set
    return uploads
