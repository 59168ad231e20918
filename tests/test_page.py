# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The page to try the model, alone and in a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anomalib.engine import Engine
from PIL import Image

from anomalib_aprilgan import AprilGan, export, page
from anomalib_aprilgan.page import Inspector
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
    model = AprilGan("demo", None, 112, adapters=None, class_name="bolt", k_shot=len(references))
    model.few_shot_source = [str(path) for path in references]
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    (batch,) = engine.predict(model, data_path=DEFECT)
    assert text.split(":")[0] == ("abnormal" if batch.pred_label else "normal")
    assert f"score {float(batch.pred_score):.3f}" in text
    (saved,) = tmp_path.rglob("images/**/*.png")
    assert list(picture.getdata()) == list(Image.open(saved).getdata())


def test_what_cannot_be_inspected_is_said(
    tmp_path: Path, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        ((DEFECT, " "), "Type a class name"),
        ((DEFECT, "bolt", [DEFECT] * 17), "at most 16 reference images, not 17"),
        ((tmp_path / "text.png", "bolt"), r"text\.png can't be read as an image"),
        ((DEFECT, "word " * 300), "more than CLIP's 77"),
    ):
        with pytest.raises(ValueError, match=message):
            inspector.inspect(*arguments)
    monkeypatch.setattr(page, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match=r"000\.png has \d+ x \d+ pixels, more than 100"):
        inspector.inspect(DEFECT, "bolt")


def test_without_gradio_the_extra_is_named(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'gradio' is not installed.*anomalib-aprilgan\[demo\]"):
        page.build_page(inspector)


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


@needs_gradio
def test_upload_type_and_see_a_map(inspector: Inspector, browser: Any, tmp_path: Path) -> None:
    import json

    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    app = page.build_page(inspector)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = page.launch(app, "127.0.0.1", port, wait=False)
    try:
        browser.get(address)
        wait = WebDriverWait(browser, 30)
        find = lambda selector: wait.until(lambda b: b.find_element(By.CSS_SELECTOR, selector))  # noqa: E731
        find("#image input[type=file]").send_keys(str(DEFECT))
        find("#references input[type=file]").send_keys("\n".join(map(str, REFERENCES)))
        find("#class_name textarea, #class_name input").send_keys("bolt")
        wait.until(lambda b: "000.png" in b.page_source and REFERENCES[1].name in b.page_source)
        find("#inspect").click()
        verdict = wait.until(
            lambda b: b.find_element(By.CSS_SELECTOR, "#verdict textarea, #verdict input").get_attribute("value")
        )
        map_size = wait.until(lambda b: b.execute_script("return document.querySelector('#picture img')?.naturalWidth"))
        browser.save_screenshot(str(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "page.png"))
        assert verdict == inspector.inspect(DEFECT, "bolt", REFERENCES)[1]
        assert map_size == 768
        urls = {
            event["params"]["request"]["url"]
            for entry in browser.get_log("performance")
            if (event := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
        }
        assert [url for url in urls if url.startswith("http") and not url.startswith(address.rstrip("/"))] == []
    finally:
        app.close()
