# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""gradio keeps what visitors send."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_aprilgan.compat.gradio import Uploads


def test_a_file_is_kept_until_all_who_sent_it_have_their_answer(tmp_path: Path) -> None:
    uploads, path = Uploads(), tmp_path / "a.png"
    path.touch()
    uploads.update([str(path)])
    uploads.update([str(path)])
    with pytest.raises(ValueError, match="no class name"), uploads.answering([str(path)]):
        raise ValueError("no class name")  # noqa: EM101
    for kept in (True, False):
        with uploads.answering([str(path)]):
            assert path.exists()
        assert path.exists() == kept
    own = tmp_path / "own.png"
    own.touch()
    with uploads.answering([str(own)]):  # not sent by a visitor
        pass
    assert own.exists()
