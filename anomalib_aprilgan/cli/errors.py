# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Errors about the input, as the command line prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def clear_errors() -> Iterator[None]:
    """Exit with the message of an error about the input instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"aprilgan: error: {error}")


def check_folders(*folders: Path) -> None:
    """Check that folders of images are there, before weights are loaded or downloaded.

    Raises:
        FileNotFoundError: If one is not.
    """
    for folder in folders:
        if not folder.exists():
            msg = f"Path does not exist: {str(folder)!r}. Expected a folder of images."
            raise FileNotFoundError(msg)
