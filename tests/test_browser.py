"""The main path in a real browser, against a server that has just started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_app import made, noise  # noqa: F401 (a fixture)

from anounet.images import png_bytes

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 120  # for one thing to appear: a cold server with one core has all of torch to load first
QUIET = "[data-testid='stApp'][data-test-script-state='notRunning']"


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[str]:  # noqa: F811
    with serving(made) as address:
        yield address


@contextmanager
def serving(weights: Path) -> Iterator[str]:
    """The app on a free port, started as a user would start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.headless", "true"]
    options = [
        "--server.address",
        "127.0.0.1",
        "--server.port",
        str(port),
        "--server.fileWatcherType",
        "none",
    ]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=os.environ | {"ANOUNET_WEIGHTS": str(weights), "ANOUNET_DATA": str(weights / "no-data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while not healthy(address):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert "Traceback" not in said, said


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
            return answer.read() == b"ok"
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One visitor: a fresh browser context that listens for anything that goes wrong."""

    def __init__(self, browser: Any, width: int, height: int, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        # On a page's own address Streamlit first asks for its health below it, and finds it one level up.
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            self.faults.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.wait_for_selector("[data-testid='stApp'][data-test-connection-state='CONNECTED']")
        self.page.wait_for_selector("h1")
        return self.page

    def sound(self) -> None:
        self.page.wait_for_selector(QUIET)
        assert self.page.locator("[data-testid='stException']").count() == 0
        assert not self.faults, self.faults


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    visit = Visit(browser, 1280, 900)
    yield visit
    visit.context.close()


def test_deep_link_to_visualise_shows_both_methods_on_a_cold_server(server: str, visit: Visit) -> None:
    page = visit.open(f"{server}/visualise?all=true&samples=band")
    assert page.locator("h1").inner_text() == "Visualise"
    page.get_by_alt_text("AnoGAN’s heat map of", exact=False).first.wait_for()
    for alt in ("Heat map of", "Heat map over the grey image", "AnoGAN’s nearest normal image to"):
        picture = page.get_by_alt_text(alt, exact=False).first
        assert picture.evaluate("image => image.complete && image.naturalWidth") == 32
    assert page.locator("text=streaks_test_").first.is_visible()
    for name in ("Home", "f-Net", "Visualise"):  # the app's own menu, not the file names'
        assert page.get_by_role("link", name=name).first.is_visible()
    visit.sound()


def test_home_shows_a_result_and_leads_to_the_pages(server: str, visit: Visit) -> None:
    page = visit.open(server)
    page.get_by_alt_text("redrawn as if it were normal", exact=False).wait_for()
    page.locator("text=× the threshold").wait_for()  # it comes after the pictures
    before = page.get_by_alt_text("Original image", exact=False).get_attribute("src")
    page.get_by_role("radio", name="Scratch").click()
    page.get_by_alt_text("Original image Scratch").wait_for()
    assert page.get_by_alt_text("Original image Scratch").get_attribute("src") != before
    page.get_by_role("link", name="Train an f-Net").click()
    page.get_by_role("heading", name="f-Net", exact=True).wait_for()
    visit.sound()


def test_home_answers_at_its_name_too_on_a_warm_server(server: str, visit: Visit) -> None:
    page = visit.open(f"{server}/home")
    page.get_by_alt_text("redrawn as if it were normal", exact=False).wait_for()
    assert page.get_by_text("Page not found").count() == 0
    assert page.get_by_role("link", name="Home").count() == 1
    visit.sound()


def test_an_upload_is_redrawn_and_a_broken_one_is_named(server: str, visit: Visit) -> None:
    page = visit.open(f"{server}/visualise?source=upload")
    page.locator("input[type=file]").set_input_files(
        [
            {"name": "part.png", "mimeType": "image/png", "buffer": png_bytes(noise(1))},
            {"name": "broken.png", "mimeType": "image/png", "buffer": b"not an image"},
        ]
    )
    page.get_by_alt_text("Heat map of part.png", exact=False).wait_for()  # instant: no start, no waiting
    assert page.locator(".st-key-start").count() == 0
    before = page.get_by_alt_text("Heat map of part.png", exact=False).get_attribute("src")
    page.locator(".st-key-map input").click()
    page.get_by_role("option", name="Distance d").click()
    page.wait_for_function(
        "before => (document.querySelector('img[alt^=\"Heat map of part.png\"]')?.src ?? before) !== before",
        arg=before,
    )
    assert "map=Distance" in page.url
    page.locator("[data-testid='stDataFrame']").first.wait_for()
    assert page.locator(".au-pic i").count() >= 2  # numbers on the heat map and on the overlay
    page.get_by_alt_text("AnoGAN’s heat map of part.png", exact=False).wait_for()
    assert "broken.png" in page.locator("[data-testid='stAlert']").inner_text()
    visit.page.reload()  # the link holds the job, and the job the image
    page.get_by_alt_text("AnoGAN’s heat map of part.png", exact=False).wait_for()
    visit.sound()


def test_results_come_before_the_settings_on_a_phone(server: str, browser: Any) -> None:
    visit = Visit(browser, 390, 844)
    try:
        page = visit.open(f"{server}/visualise?rival=false")
        result = page.get_by_alt_text("Heat map over the grey image", exact=False).first
        result.wait_for()
        visit.sound()
        pictures = page.locator(".st-key-source").bounding_box()["y"]
        settings = page.locator(".st-key-mode").bounding_box()["y"]
        assert pictures < result.bounding_box()["y"] < settings
    finally:
        visit.context.close()
