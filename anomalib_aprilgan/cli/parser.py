# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The parser of the command line."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser


class Parser(ArgumentParser):
    """jsonargparse's, but tuples and positional lists are words, not texts in brackets; ``-k`` stands for ``--k``."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument."""
        hint = getattr(kwargs.get("action"), "_typehint", None)
        if get_origin(hint) is tuple or (get_origin(hint) is list and not args[0].startswith("-")):
            kwargs = {"help": kwargs["help"], "type": get_args(hint)[0], "nargs": "+"}
        if len(args[0]) == len("--k") and args[0].startswith("--"):
            args = (args[0][1:], *args)
        return super().add_argument(*args, **kwargs)
