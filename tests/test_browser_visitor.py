"""The visitor with one photo, in a real browser: gallery, divider, clipboard, camera, files, the link."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_app import noise
from test_browser import (  # noqa: F401 (fixtures, and when to skip)
    ARGUMENTS,
    CHROMIUM,
    SECONDS,
    Visit,
    made,
    pytestmark,
    server,
    sync_api,
)

from anounet.images import png_bytes

GRIP, CANVAS = ".st-key-viewer_0 .grip", ".st-key-viewer_0 canvas"
DRAWN = "canvas => canvas.toDataURL()"
# A camera that films by itself, and nobody who has to allow it.
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PASTE = """data => {
  const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0))
  const transfer = new DataTransfer()
  transfer.items.add(new File([bytes], 'clip.png', { type: 'image/png' }))
  document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *CAMERA])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def visitor(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    visit = Visit(browser, *request.param)
    yield visit
    visit.context.close()


def drawn(page: Any) -> str:
    """The viewer's picture, once it is there."""
    sync_api.expect(page.locator(CANVAS)).not_to_have_attribute("width", "300")  # that of a new canvas
    page.locator(CANVAS).evaluate(
        "async c => { while (c.getContext('2d').getImageData(9, 9, 1, 1).data[3] !== 255)"
        " await new Promise(requestAnimationFrame) }"
    )
    return page.locator(CANVAS).evaluate(DRAWN)


def test_from_the_gallery_to_a_result_that_is_taken_along(
    server: str,  # noqa: F811
    browser: Any,
    visitor: Visit,
    tmp_path: Path,
) -> None:
    page = visitor.open(server)
    page.get_by_role("button", name="Bright blob Streaks").click()
    page.get_by_role("heading", name="Visualise", exact=True).wait_for()
    page.wait_for_function("() => location.search.includes('samples=Bright+blob')")
    page.get_by_alt_text("Heat map of", exact=False).first.wait_for()
    card = page.locator(".st-key-card_0")
    assert card.get_by_text("stand", exact=False).first.is_visible()  # what stands out, in words
    assert "overlooks" in card.inner_text()

    before, asked = drawn(page), []
    page.on("websocket", lambda socket: asked.append(socket.url))
    grip = page.locator(GRIP)
    grip.focus()
    grip.press("ArrowRight")
    assert grip.get_attribute("aria-valuenow") == "52" and page.locator(CANVAS).evaluate(DRAWN) != before
    grip.press("Home")
    assert grip.get_attribute("aria-valuenow") == "0"
    box = page.locator(CANVAS).bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert abs(int(grip.get_attribute("aria-valuenow")) - 75) <= 1
    assert "normal" in page.locator(".st-key-viewer_0 output").inner_text()  # the value under the pointer
    seen = page.locator(CANVAS).evaluate(DRAWN)
    page.locator(".st-key-viewer_0 input[type=range]").first.fill("0")  # no heat
    assert page.locator(CANVAS).evaluate(DRAWN) != seen

    page.get_by_alt_text("AnoGAN’s heat map of", exact=False).first.wait_for()  # the page is at rest then
    visitor.sound()
    card.get_by_text("Loss curves and downloads", exact=False).click()
    files = {}
    for ending in ("map.npy", "settings.json", "normalised.png"):
        with page.expect_download() as download:
            page.locator(f".st-key-get_{ending.replace('.', '-')}_0 button").click()
        files[ending] = tmp_path / ending
        download.value.save_as(files[ending])
    level = np.load(files["map.npy"])
    assert level.shape == (32, 32) and level.dtype == np.float32
    settings = json.loads(files["settings.json"].read_text(encoding="utf-8"))
    assert settings["method"] == "instant" and settings["size"] == 32
    visitor.sound()

    address = page.url
    again = Visit(browser, 1280, 900)  # somebody else opens the link
    try:
        other = again.open(address)
        other.get_by_alt_text("Heat map of", exact=False).first.wait_for()
        alt = page.get_by_alt_text("Heat map of", exact=False).first.get_attribute("alt")
        assert other.get_by_alt_text("Heat map of", exact=False).first.get_attribute("alt") == alt
        again.sound()
    finally:
        again.context.close()


def take_photo(page: Any) -> None:
    """Streamlit asks for the camera anew when it knows its width; until then a click is lost."""
    for last in (False, False, True):
        try:
            with page.expect_request("**/_stcore/upload_file/**", timeout=SECONDS * 1000 if last else 10_000):
                page.get_by_role("button", name="Take Photo").click()
            return
        except sync_api.TimeoutError:
            if last:
                raise


def test_an_image_is_pasted_and_a_photo_is_taken(server: str, visitor: Visit) -> None:  # noqa: F811
    page = visitor.open(f"{server}/visualise?source=upload")
    page.get_by_role("button", name="Paste").wait_for()
    page.evaluate(PASTE, base64.b64encode(png_bytes(noise(5))).decode())
    page.get_by_alt_text("Heat map of clip.png", exact=False).first.wait_for()
    page.get_by_text("Camera", exact=True).click()
    page.wait_for_function("() => document.querySelector('video')?.videoWidth > 0")
    take_photo(page)
    page.get_by_alt_text("AnoGAN’s heat map of photo-2.png", exact=False).first.wait_for()
    visitor.sound()
    with page.expect_download() as download:
        page.get_by_text("Scores of all 2 images").click()
        page.locator(".st-key-get_zip button").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        names = archive.namelist()
    assert "scores.csv" in names and sum(name.endswith("settings.json") for name in names) == 2
    visitor.sound()


def test_the_rivals_stand_in_equal_panels_on_one_scale(server: str, visitor: Visit) -> None:  # noqa: F811
    page = visitor.open(f"{server}/visualise?samples=scratch&against=AnoGAN")
    page.get_by_alt_text("AnoGAN’s heat map of", exact=False).first.wait_for()
    page.locator(".st-key-viewer_0 [role=radio]", has_text="AnoGAN").wait_for()
    before = drawn(page)
    page.locator(".st-key-viewer_0 [role=radio]", has_text="AnoGAN").click()
    assert page.locator(CANVAS).evaluate(DRAWN) != before
    ours = page.get_by_alt_text("Heat map of", exact=False).first.bounding_box()
    theirs = page.get_by_alt_text("AnoGAN’s heat map of", exact=False).first.bounding_box()
    assert abs(ours["width"] - theirs["width"]) < 1
    visitor.sound()
