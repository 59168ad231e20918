# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Fetching the released adapters, from a server on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from anomalib.data import Folder, MVTecAD, MVTecAD2, Visa

from anomalib_aprilgan.data import released_adapters as weights
from anomalib_aprilgan.data.released_adapters import (
    RELEASED_ADAPTERS,
    ReleasedAdapters,
    auto_adapters,
    check_backbone,
    fetch_adapters,
    is_released_for,
)

CONTENT = b"adapter weights " * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves what its server's ``answer`` holds, cut off after ``length`` bytes, once ``together`` is reached.

    The first answers are the ``faults``: statuses of errors, or None for an answer that never comes.
    """

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answer = self.server.answer
        if answer.together is not None:
            answer.together.wait()
        if answer.faults:
            fault = answer.faults.pop(0)
            if fault is None:
                self.server.stopped.wait()
            else:
                self.send_error(fault)
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content[: answer.length])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.stopped = [], threading.Event()
        server.answer = SimpleNamespace(status=200, content=CONTENT, length=None, together=None, faults=[])
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stopped.set()
        server.shutdown()


@pytest.fixture
def release(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleasedAdapters:
    """The released adapters "visa", on the local server, with a cache in a temporary folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "get_pretrained_weights_dir", lambda: tmp_path)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _seconds: None))
    release = ReleasedAdapters(f"http://127.0.0.1:{server.server_port}/visa.pth", SHA256)
    monkeypatch.setitem(RELEASED_ADAPTERS, "visa", release)
    return release


def by_hand(release: ReleasedAdapters) -> str:
    """Pattern of the end of every error."""
    return re.escape(f"(sha256 {SHA256}) by other means and put it at {release.path}.")


def files(release: ReleasedAdapters) -> list[Path]:
    return list(release.path.parent.iterdir())


def test_downloads_once(server, release):
    assert fetch_adapters("visa") == release.path
    assert release.path.read_bytes() == CONTENT
    assert fetch_adapters("visa") == release.path
    assert server.requests == ["/visa.pth"]
    assert files(release) == [release.path]
    assert release.path.stat().st_mode & 0o777 == 0o644


def test_uses_a_file_put_there_by_hand(server, release):
    release.path.parent.mkdir()
    release.path.write_bytes(CONTENT)
    assert fetch_adapters("visa") == release.path
    assert server.requests == []


def test_damaged_file_is_downloaded_again(server, release, caplog):
    release.path.parent.mkdir()
    release.path.write_bytes(CONTENT[:100])
    with caplog.at_level(logging.WARNING):
        fetch_adapters("visa")
    assert f"{release.path} is damaged" in caplog.text
    assert release.path.read_bytes() == CONTENT


def test_wrong_content_is_refused(server, release):
    """Such as a page of HTML with the status 200."""
    server.answer.content = b"<html>"
    found = hashlib.sha256(b"<html>").hexdigest()
    with pytest.raises(RuntimeError, match=f"not the file the authors released: .* got {found}.*{by_hand(release)}"):
        fetch_adapters("visa")
    assert files(release) == []
    assert len(server.requests) == weights.ATTEMPTS


def test_an_interrupted_download_is_not_used(server, release):
    server.answer.length = 1000
    with pytest.raises(ConnectionError, match=f"IncompleteRead.*1000 bytes read.*{by_hand(release)}"):
        fetch_adapters("visa")
    assert files(release) == []
    assert len(server.requests) == weights.ATTEMPTS


@pytest.mark.parametrize("faults", [[500], [503, 502]])
def test_passing_faults_of_the_server_are_overcome(server, release, faults):
    server.answer.faults = list(faults)
    assert fetch_adapters("visa").read_bytes() == CONTENT
    assert len(server.requests) == len(faults) + 1


def test_a_server_that_does_not_answer_is_left(server, release, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT", 0.2)
    server.answer.faults = [None] * weights.ATTEMPTS
    with pytest.raises(ConnectionError, match=f"timed out.*{by_hand(release)}"):
        fetch_adapters("visa")
    assert len(server.requests) == weights.ATTEMPTS


@pytest.mark.parametrize("error", [PermissionError("denied"), OSError("disk full")])
def test_a_cache_that_cannot_be_written_to_is_named(server, release, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("pooch.core.shutil.move", fail)
    with pytest.raises(OSError, match=f"could not be kept: {error}. Make {release.path.parent} .*{by_hand(release)}"):
        fetch_adapters("visa")


def test_a_file_where_the_cache_should_be_is_named(release):
    release.path.parent.write_text("a file")
    with pytest.raises(OSError, match=rf"could not be kept: .*{by_hand(release)} A file elsewhere can be given as `ad"):
        fetch_adapters("visa")


def test_wrong_content_leaves_the_present_file_alone(server, release):
    release.path.parent.mkdir()
    release.path.write_bytes(b"by hand")
    server.answer.content = b"<html>"
    with pytest.raises(RuntimeError, match="not the file"):
        fetch_adapters("visa")
    assert release.path.read_bytes() == b"by hand"


def test_missing_page_is_reported(server, release):
    server.answer.status = 404
    with pytest.raises(ConnectionError, match=f"{release.url}: 404 Client Error.*{by_hand(release)}"):
        fetch_adapters("visa")
    assert files(release) == []


def test_missing_network_is_reported(release, monkeypatch):
    with socket.socket() as closed:  # bound, not listening: refuses connections
        closed.bind(("127.0.0.1", 0))
        unreachable = ReleasedAdapters(f"http://127.0.0.1:{closed.getsockname()[1]}/visa.pth", SHA256)
        monkeypatch.setitem(RELEASED_ADAPTERS, "visa", unreachable)
        with pytest.raises(ConnectionError, match=f"{unreachable.url}: .*{by_hand(release)}"):
            fetch_adapters("visa")


def _fetch(release: ReleasedAdapters, cache: Path) -> bytes:
    """What a process of its own reads from the fetched file."""
    weights.get_pretrained_weights_dir = lambda: cache
    RELEASED_ADAPTERS["visa"] = release
    return fetch_adapters("visa").read_bytes()


@pytest.mark.slow
def test_two_processes_fetch_at_once(server, release, tmp_path):
    server.answer.together = threading.Barrier(2, timeout=60)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_fetch, [(release, tmp_path)] * 2, chunksize=1) == [CONTENT] * 2
    assert server.requests == ["/visa.pth"] * 2
    assert files(release) == [release.path]


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`name` must be one of mvtecad, visa, got 'btech'"):
        fetch_adapters("btech")


def test_released_files_are_the_authors():
    assert {name: release.url.rsplit("/", maxsplit=1)[-1] for name, release in RELEASED_ADAPTERS.items()} == {
        "mvtecad": "mvtec_pretrained.pth",
        "visa": "visa_pretrained.pth",
    }
    assert all(len(release.sha256) == 64 for release in RELEASED_ADAPTERS.values())


def test_cache_is_anomalibs(monkeypatch, tmp_path):
    monkeypatch.setattr("anomalib.utils.path.platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    assert RELEASED_ADAPTERS["visa"].path == tmp_path / "pre_trained" / "april_gan" / "visa_pretrained.pth"


class OwnMVTecAD(MVTecAD):
    """A user's variation."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [(MVTecAD, "visa"), (OwnMVTecAD, "visa"), (MVTecAD2, "mvtecad"), (Visa, "mvtecad"), (Folder, "mvtecad")],
)
def test_auto_adapters_were_not_trained_on_the_target(kind, name):
    assert auto_adapters(kind.__new__(kind)) == name


def test_auto_adapters_without_data():
    assert auto_adapters(None) == "mvtecad"


@pytest.mark.parametrize(
    ("backbone", "layers", "fits"),
    [
        ("ViT-L-14-336", None, True),
        ("ViT-L-14-336", [3, 9, 15, 21], True),
        ("ViT-L-14-336", [12, 24], False),
        ("ViT-L-14", None, False),  # the same widths, other weights
        ("ViT-B-16-SigLIP", None, False),
        ("RN50", None, False),
        ("convnext_base", None, False),
        ("demo", None, False),
    ],
)
def test_backbones_that_the_released_adapters_were_trained_with(backbone, layers, fits):
    assert is_released_for(backbone, layers) == fits


@pytest.mark.parametrize(("width", "fits"), [(1024, True), (768, False)])
def test_a_configuration_is_judged_by_its_widths(tmp_path, width, fits):
    config = {"embed_dim": 768, "vision_cfg": {"width": width, "layers": 24}, "text_cfg": {}}
    (tmp_path / "own.json").write_text(json.dumps(config))
    assert is_released_for(str(tmp_path / "own.json"), None) == fits


def test_the_demo_is_told_which_adapters_it_needs(caplog):
    with pytest.raises(ValueError, match=r"not for 'demo': .* such as the one that `anomalib train --config con"):
        check_backbone("mvtecad", "demo", None)
    with caplog.at_level(logging.WARNING, "anomalib_aprilgan"):
        check_backbone("auto", "demo", [1, 2])
    assert "not for 'demo' with layers [1, 2]" in caplog.text
    for adapters in (None, "own.pth"):
        check_backbone(adapters, "demo", None)
    assert len(caplog.records) == 1
