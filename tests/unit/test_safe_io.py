# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole: written in one step, and refused when damaged or dangerous."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_aprilgan.safe_io import read_torch, write_whole
from bad_files import DAMAGE, Malicious, saved

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused_naming_file_and_reason(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(damage(saved({"weight": torch.randn(1000)}, path)))
    with pytest.raises(ValueError, match=rf"some\.ckpt can't be read: {reason}.* make it again\."):
        read_torch(path)


@pytest.mark.parametrize("archive", [True, False])
def test_code_is_refused_and_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture, archive: bool) -> None:
    path = tmp_path / "some.ckpt"
    torch.save({"weight": Malicious()}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"might run code \(builtins\.print\)" if archive else "not a file of torch"):
        read_torch(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="can't be read"):
        read_torch(path)
    assert "ran" not in capsys.readouterr().out


def test_code_is_refused_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"weight": Malicious()}, tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match="might run code"):
        read_torch(tmp_path / "some.ckpt")


@pytest.mark.parametrize("archive", [True, False])
def test_whole_files_are_read(tmp_path: Path, archive: bool) -> None:
    """Also those from before torch wrote archives."""
    torch.save({"weight": torch.arange(5)}, tmp_path / "some.pth", _use_new_zipfile_serialization=archive)
    assert torch.equal(read_torch(tmp_path / "some.pth")["weight"], torch.arange(5))


def test_a_missing_file_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_torch(tmp_path / "nothing.ckpt")


def test_what_is_written_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "some.bin"
    for content in (b"old", b"new"):
        write_whole(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys; from anomalib_aprilgan.safe_io import write_whole\n"
        "def die(file):\n    file.write(b'new' * 10**6); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(sys.argv[1], die)"
    )
    result = subprocess.run([sys.executable, "-c", script, path], env={**os.environ, "PYTHONPATH": str(ROOT)})  # noqa: PLW1510
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


WRITERS = {
    "bytes": lambda file: file.write(b"x" * 10**6),
    "torch": partial(torch.save, {"weight": torch.zeros(10**6)}),
    "numpy": partial(np.savez, x=np.zeros(10**6)),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on files")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path, write: Callable) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large: '.*some\.bin'"):
            write_whole(tmp_path / "some.bin", write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
