"""Own images in a real browser: good ones in, a bundle by itself, suspicious ones in, a ranked table out."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_browser import QUIET, ROOT, SECONDS, Visit, browser, pytestmark, server, sync_api  # noqa: F401

from anounet.bundle import SHIPPED
from anounet.datasets import TextureSet
from anounet.images import png_bytes

TEXTURE = "weave"  # none that the shipped bundle's C knows
DEFECTS = ("missing", "foreign", "orientation", "frequency")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of bundles: the shipped one's general F has to tell good from defective here."""
    if not (ROOT / "weights" / SHIPPED / "bundle.json").is_file():
        pytest.skip("the shipped bundle is not there")
    folder = tmp_path_factory.mktemp("own") / "weights"
    shutil.copytree(ROOT / "weights" / SHIPPED, folder / SHIPPED)
    return folder


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, *request.param)
    yield visit
    visit.context.close()


def file(name: str, pixels: Any) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": png_bytes(pixels)}


def good_files(count: int) -> list[dict[str, Any]]:
    images = TextureSet("train", count)
    indices = images.where(TEXTURE, defective=False)
    return [file(f"part{n}.png", images.pixels(i, 128)) for n, i in enumerate(indices)]


def suspicious_files() -> list[dict[str, Any]]:
    images, found = TextureSet("test", 40), []
    for defect in DEFECTS:
        indices = images.where(TEXTURE, defective=True)
        index = next(i for i in indices if images.items[i].defect == defect)
        found.append(file(f"bad-{defect}.png", images.pixels(index, 128)))
    fine = images.where(TEXTURE, defective=False)[:2]
    return [*(file(f"fine{n}.png", images.pixels(i, 128)) for n, i in enumerate(fine)), *found]


def names(page: Any) -> list[str]:
    return page.locator("tbody tr td.image").all_inner_texts()


def test_from_good_images_to_a_ranked_table(server: str, visit: Visit) -> None:  # noqa: F811
    page = visit.open(f"{server}/own_images")
    page.locator(".st-key-own_upload_0 input[type=file]").set_input_files(good_files(24))
    page.get_by_text("made of 24 good images").wait_for()
    assert "bundle=own-" in page.url
    page.locator(".st-key-suspects_upload_0 input[type=file]").set_input_files(suspicious_files())
    page.locator("tbody tr").nth(5).wait_for()
    steps = page.locator("[data-testid='stHeading'] h3").all_inner_texts()
    assert len(steps) == len(set(steps)) == 3  # nothing of an earlier run is left
    ranked = names(page)
    assert all(name.startswith("bad-") for name in ranked[:4]), ranked
    assert sorted(ranked[4:]) == ["fine0.png", "fine1.png"]
    for number in range(6):
        for picture in page.locator("tbody tr").nth(number).locator("img").all():
            picture.scroll_into_view_if_needed()
            picture.evaluate("image => image.decode()")
            assert picture.evaluate("image => image.naturalWidth") == 96
            assert picture.get_attribute("alt")
    page.locator(".st-key-verdict").get_by_role("radio", name="Anomalous").click()
    sync_api.expect(page.locator("tbody tr", has_text="Normal")).to_have_count(0, timeout=SECONDS * 1000)
    page.wait_for_selector(QUIET)
    assert "verdict=Anomalous" in page.url
    shown = names(page)
    assert shown == ranked[: len(shown)] and len(shown) >= 4
    with page.expect_download() as download:
        page.locator(".st-key-rank_csv button").click()
    lines = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert download.value.suggested_filename == "ranking.csv"
    assert [line["image"] for line in lines] == shown
    assert {line["verdict"] for line in lines} == {"anomalous"}
    page.locator("tbody tr button").first.focus()
    page.keyboard.press("Enter")
    page.get_by_alt_text(f"Heat map of {ranked[0]}", exact=False).wait_for()
    assert "open=" in page.url
    page.reload()
    page.get_by_alt_text(f"Heat map of {ranked[0]}", exact=False).wait_for()
    sync_api.expect(page.locator("tbody tr")).to_have_count(len(shown), timeout=SECONDS * 1000)
    assert names(page) == shown
    wide = page.evaluate(
        "[document.documentElement, document.querySelector('[data-testid=stMain]')]"
        ".map(element => element.scrollWidth - element.clientWidth)"
    )
    assert max(wide) <= 0, wide
    visit.sound()


def test_too_few_good_images_are_said(server: str, visit: Visit) -> None:  # noqa: F811
    page = visit.open(f"{server}/own_images")
    page.locator(".st-key-own_upload_0 input[type=file]").set_input_files(good_files(3))
    page.get_by_text("3 good images are here, and 20 are needed: add 17 more").wait_for()
    visit.sound()
