# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The page to try the model, alone and in a browser."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.engine import Engine
from PIL import Image

from anomalib_aprilgan import AprilGan, app
from anomalib_aprilgan.app import Inspector
from anomalib_aprilgan.components import export
from anomalib_aprilgan.data.images import read_rgb
from conftest import GOLDEN

BOLT = GOLDEN / "dataset" / "bolt"
DEFECT = BOLT / "test" / "scratch" / "000.png"
REFERENCES = sorted((BOLT / "train" / "good").iterdir())[:2]
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra 'demo'")


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector("demo", None, 112, adapters=None)


@pytest.mark.parametrize("references", [[], REFERENCES])
def test_inspection_equals_a_prediction(tmp_path: Path, inspector: Inspector, references: list[Path]) -> None:
    picture, text = inspector.inspect(DEFECT, "bolt", references)
    few = {"k_shot": len(references), "few_shot_source": [str(path) for path in references]} if references else {}
    model = AprilGan("demo", None, 112, adapters=None, class_name="bolt", **few)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    (batch,) = engine.predict(model, data_path=DEFECT)
    decision = ("abnormal" if batch.pred_label else "normal") if references else "no threshold"
    origin = ", threshold 0.5 from 2 references (too few for a rate of 0.01)" if references else ""
    assert text == f"{decision}: score {float(batch.pred_score):.3f}{origin}"
    (saved,) = tmp_path.rglob("images/**/*.png")
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.open(saved)))


def test_what_cannot_be_inspected_is_said(
    tmp_path: Path, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        ((DEFECT, " "), "`class_name` must be a word"),
        ((DEFECT, "bolt", [DEFECT] * 17), "at most 16 reference images, not 17"),
        ((tmp_path / "text.png", "bolt"), r"text\.png can't be read as an image"),
        ((DEFECT, "word " * 300), "more than CLIP's 77"),
    ):
        with pytest.raises(ValueError, match=message):
            inspector.inspect(*arguments)
    monkeypatch.setattr(app, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match=r"000\.png has \d+ x \d+ pixels, more than 100"):
        inspector.inspect(DEFECT, "bolt")


def test_simultaneous_requests_get_the_answers_of_lone_ones(inspector: Inspector, tmp_path: Path) -> None:
    """As by the endpoint without the queue: other class names, references and images, one of them broken."""
    (tmp_path / "broken.png").write_bytes(DEFECT.read_bytes()[:2000])
    requests = [(DEFECT, "bolt", REFERENCES), (DEFECT, "coin"), (REFERENCES[0], "nut", REFERENCES[1:])]
    requests += [(DEFECT, "bolt", [REFERENCES[0], tmp_path / "broken.png"])]

    def answer(request: tuple) -> tuple[str, bytes]:
        try:
            picture, text = inspector.inspect(*request)
        except ValueError as error:
            return str(error), b""
        return text, picture.tobytes()

    alone = [answer(request) for request in requests]
    assert len({*alone}) == len(requests)
    assert "broken.png" in alone[3][0]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, requests * 2)) == alone * 2


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_resized_before_they_are_held(
    inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    with Image.open(DEFECT) as image:
        large, exif = image.convert("RGB").resize((900, 600)), image.getexif()
    exif[0x0112] = orientation
    sizes = []
    for name, options in (("a.jpg", {"quality": 95}), ("a.tif", {})):
        large.save(tmp_path / name, exif=exif, **options)
        monkeypatch.setattr(inspector.visualizer, "field_size", (256, 256))
        whole = inspector.inspect(tmp_path / name, "bolt", [tmp_path / name, REFERENCES[0]])
        monkeypatch.setattr(inspector, "max_side", 450)
        monkeypatch.setattr(app, "read_rgb", lambda path: sizes.append(read_rgb(path).shape) or read_rgb(path))
        small = inspector.inspect(tmp_path / name, "bolt", [tmp_path / name, REFERENCES[0]])
        assert sizes.pop() == ((3, 300, 450) if orientation == 1 else (3, 450, 300))
        difference = np.abs(np.asarray(small[0], dtype=float) - np.asarray(whole[0], dtype=float))
        assert difference.mean() < 3
        assert float(small[1].split()[2].strip(",")) == pytest.approx(float(whole[1].split()[2].strip(",")), abs=0.02)
        monkeypatch.undo()


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "pages"])
def test_what_is_not_plain_8_bit_is_left_to_the_reader(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    page = Image.new("L" if mode == "pages" else mode, (90, 60))
    page.save(path, **({"save_all": True, "append_images": [page]} if mode == "pages" else {}))
    assert app.small_copy(path, tmp_path / "copy", 45) == str(path)


@pytest.mark.slow
@needs_gradio
def test_what_visitors_send_is_deleted(tmp_path: Path) -> None:
    """In a process of its own: gradio leaves an event loop open."""
    code = "from anomalib_aprilgan import app; print(app.build_page(None).delete_cache == (app.DELETE_EVERY, app.KEEP))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "True\n"
    assert list(tmp_path.glob("aprilgan-*")) == []


def test_without_gradio_the_extra_is_named(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'gradio' is not installed.*anomalib-aprilgan\[demo\]"):
        app.build_page(inspector)


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium, which drives the browser, is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    monkeypatch.setenv("HOME", str(tmp_path))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument("--window-size=1200,1000")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served page's folder for temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Iterator[str]:
    """Where ``aprilgan demo`` serves the page, with random weights."""
    tmp_path = tmp_path_factory.mktemp("page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--backbone=demo", "--pretrained=null", "--adapters=null", "--image_size=112", f"--port={port}"]
    command = [sys.executable, "-W", "ignore", "-c", "from anomalib_aprilgan.cli import main; main()", "demo", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[1]), "HOME": str(tmp_path)}
    environment["TMPDIR"] = str(temporary)
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, server, tmp_path / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert list(temporary.glob("aprilgan-*")) == []


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"The page is not served: {log.read_text()}")


@pytest.mark.slow
@needs_gradio
def test_upload_type_and_see_a_map(inspector: Inspector, browser: Any, address: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector: str) -> Any:
        return wait.until(lambda page: page.find_element(By.CSS_SELECTOR, selector))

    wait = WebDriverWait(browser, 60)
    browser.get(address)
    find("#inspect").click()
    wait.until(lambda page: "Drop an image first." in page.page_source)
    find("#image input[type=file]").send_keys(str(DEFECT))
    find("#references input[type=file]").send_keys("\n".join(map(str, REFERENCES)))
    find("#class_name textarea, #class_name input").send_keys("bolt")
    wait.until(lambda page: "000.png" in page.page_source and REFERENCES[1].name in page.page_source)
    find("#inspect").click()
    verdict = wait.until(lambda _page: find("#verdict textarea, #verdict input").get_attribute("value"))
    width = wait.until(lambda page: page.execute_script("return document.querySelector('#pictures img')?.naturalWidth"))
    browser.save_screenshot(str(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "page.png"))
    assert verdict == inspector.inspect(DEFECT, "bolt", REFERENCES)[1]
    assert width == 3 * 256
    table = find("#table").get_attribute("href")
    (row,) = csv.DictReader(io.StringIO(b64decode(table.split(",")[1]).decode()))
    assert row["image_path"] == "000.png"
    assert f"{row['threshold']} from {row['threshold_origin']}" in verdict
    slide = "e = document.querySelector('#threshold input[type=range]'); e.value = arguments[0];"
    slide += "e.dispatchEvent(new Event('input')); e.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}))"
    browser.execute_script(slide, 0.99)
    wait.until(lambda _page: "0.99 from the slider" in find("#verdict textarea, #verdict input").get_attribute("value"))
    assert find("#verdict textarea, #verdict input").get_attribute("value").startswith("normal: ")
    assert [url for url in requested(browser) if not url.startswith(address)] == []


def requested(browser: Any) -> set[str]:
    """Addresses that the page has asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    return {url for url in urls if url.startswith("http")}


@needs_gradio
def test_large_uploads_are_refused(address: str, temporary: Path) -> None:
    assert upload(address, 1000) == 200
    (folder,) = temporary.glob("aprilgan-*")
    assert list(folder.rglob("*.png"))
    assert folder.stat().st_mode & 0o077 == 0
    assert upload(address, 21 * 2**20) == 413


def upload(address: str, size: int) -> int:
    """The HTTP status of an upload of ``size`` bytes."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    request = urllib.request.Request(f"{address}/gradio_api/upload", head + bytes(size) + b"\r\n--x--\r\n")
    request.add_header("Content-Type", "multipart/form-data; boundary=x")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            json.load(answer)
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def ask(client: Any, images: list[Path], class_name: str, references: list[Path]) -> tuple[str, str, str]:
    """Verdict, table and pictures."""
    from gradio_client import handle_file

    files = [[handle_file(path) for path in paths] for paths in (images, references)]
    return tuple(client.predict(files[0], class_name, files[1], api_name="/inspect")[:3])


@needs_gradio
@pytest.mark.slow
def test_simultaneous_visitors_get_the_answers_of_lone_ones(address: str, temporary: Path, tmp_path: Path) -> None:
    """By the page's own endpoint; some send the same files. Nothing of theirs is left."""
    from gradio_client import Client

    other = Path(shutil.copy(REFERENCES[0], tmp_path / "other.png"))
    requests = [([DEFECT], "bolt", REFERENCES), ([DEFECT, other], "coin", []), ([REFERENCES[0]], "nut", REFERENCES)]
    client = Client(address, verbose=False, download_files=tmp_path)
    try:
        alone = [ask(client, *request) for request in requests]
        assert len({answer[1] for answer in alone}) == len(requests)
        assert alone[1][0] == "no threshold: 2 images by score"
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda request: ask(client, *request), requests * 4)) == alone * 4
    finally:
        client.close()
    (folder,) = temporary.glob("aprilgan-*")
    assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size and path.name != "a.png"] == []


@needs_gradio
def test_the_page_is_reached_from_this_machine_only(address: str) -> None:
    """A server on all interfaces would answer at the loopback network's other addresses too."""
    port = int(address.rsplit(":", maxsplit=1)[1])
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.2", port)) != 0
