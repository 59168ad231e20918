# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The command line ``aprilgan``, a file for each command. Heavy imports are made by the commands that need them."""

from __future__ import annotations

from typing import Any

from jsonargparse import auto_cli

from anomalib_aprilgan.cli.check import check
from anomalib_aprilgan.cli.compare import compare, figure, table
from anomalib_aprilgan.cli.demo import demo
from anomalib_aprilgan.cli.export import export
from anomalib_aprilgan.cli.parser import Parser
from anomalib_aprilgan.cli.parts import PARTS
from anomalib_aprilgan.cli.prompts import prompts
from anomalib_aprilgan.cli.references import REFERENCES
from anomalib_aprilgan.cli.report import report
from anomalib_aprilgan.cli.validate import validate

COMMANDS: dict[str, Any] = {
    "compare": compare,
    "table": table,
    "figure": figure,
    "prompts": prompts,
    "demo": demo,
    "export": export,
    "validate": validate,
    "references": REFERENCES,
    "parts": PARTS,
    "report": report,
    "check": check,
}


def main() -> None:
    """Run the subcommand that is named. Its required arguments are positional, but for keyword-only ones."""
    auto_cli(COMMANDS, parser_class=Parser)
