# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The command line ``aprilgan``, a file for each command. Heavy imports are made by the commands that need them."""

from __future__ import annotations

from typing import Any

from jsonargparse import auto_cli

from anomalib_aprilgan.cli.compare import compare, figure, table
from anomalib_aprilgan.cli.demo import demo
from anomalib_aprilgan.cli.export import export
from anomalib_aprilgan.cli.prompts import prompts
from anomalib_aprilgan.cli.validate import validate

COMMANDS: dict[str, Any] = {
    "compare": compare,
    "table": table,
    "figure": figure,
    "prompts": prompts,
    "demo": demo,
    "export": export,
    "validate": validate,
}


def main() -> None:
    """Run the subcommand that the command line names."""
    auto_cli(COMMANDS, as_positional=False)
