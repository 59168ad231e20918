# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for logs that say too much, seen in anomalib 2.7.0, onnxscript 0.7 and onnx_ir 1.1."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.logging import RichHandler

HOST_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def log_once() -> None:
    """Keep anomalib's command line from writing each line twice: by Rich to stdout, and without it to stderr.

    ``anomalib.loggers.configure_logger`` adds Rich's handler to the root logger, beside the one of ``basicConfig``, and
    to Lightning's. A handler of the user has another format, and stays.
    """
    for logger in (logging.getLogger(), logging.getLogger("lightning.pytorch")):
        if any(isinstance(handler, RichHandler) for handler in logger.handlers):
            logger.handlers[:] = [handler for handler in logger.handlers if not _is_plain(handler)]


def _is_plain(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler and getattr(handler.formatter, "_fmt", None) == HOST_FORMAT


@contextmanager
def quiet_translation() -> Iterator[None]:
    """Hide what onnxscript and onnx_ir log of every node, some 700 lines, at the level INFO."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
