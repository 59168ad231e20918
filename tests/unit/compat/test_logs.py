# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Logs that say things once, and only what a user needs."""

from __future__ import annotations

import logging

import pytest
from anomalib.loggers import configure_logger

from anomalib_aprilgan.compat.logs import log_once, quiet_translation


def test_anomalib_writes_each_line_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    root, lightning, own = logging.getLogger(), logging.getLogger("lightning.pytorch"), logging.StreamHandler()
    monkeypatch.setattr(lightning, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure_logger()
    for writes, change in ((2, log_once), (1, lambda: root.addHandler(own)), (2, log_once), (2, log_once)):
        root.info("of the root")
        printed = capsys.readouterr()
        assert (printed.out + printed.err).count("of the root") == writes  # the user's own handler stays
        change()
    assert len(lightning.handlers) == 1


def test_translation_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("onnx_ir.passes")
    with quiet_translation():
        logger.info("Replaced initializer")
        logger.warning("something is wrong")
    logger.info("later")
    assert caplog.messages == ["something is wrong", "later"]
