"""Pictures of every page, light and dark, English and Japanese, on a desktop and a phone: `make screenshots`.

    python tools/screenshots.py [--to screenshots] [--only TEXT] [--readme]

Starts the app on the bundles and data of this machine, and opens each address in Chromium, in a window as
high as the page. A name is PAGE_LANGUAGE_SCHEME_DEVICE.png; --only takes those that hold TEXT. --readme makes
the README's pictures instead.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from anounet.app.routing import PAGES
from anounet.cli.bench import script

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 90.0  # seconds for a page to be at rest
TALLEST = 7000  # px
DEVICES = {"desktop": (1280, 900, 1), "phone": (390, 844, 2)}
QUIET = "[data-testid='stApp'][data-test-script-state='notRunning']"
BUSY = "[data-testid='stProgress'], [data-testid='stSpinner'], .au-hall[role='status']"
# What else than each page by itself is worth a look: name → address.
VIEWS = {
    "visualise-rivals": "visualise?samples=scratch&against=AnoGAN&against=Nearest+patch",
    "visualise-upload": "visualise?source=upload",
    "explore-grid": "explore?show=grid",
}
STEPS = {f"how_it_works-{number:02}": f"how_it_works?step={number}" for number in range(2, 13)}
FEW = (("en", "light", "desktop"), ("ja", "dark", "phone"))  # ways of the steps


@dataclass(frozen=True)
class Shot:
    """One picture: which address, how, and of which part (all of it where there is no selector)."""

    name: str
    address: str
    language: str = "en"
    scheme: str = "light"
    device: str = "desktop"
    part: str | None = None


README = (
    Shot("home", "home?defect=Scratch"),
    Shot("visualise", "visualise?samples=scratch", scheme="dark", part=".st-key-card_0"),
    Shot("how_it_works", "how_it_works?step=8", "ja"),
)


def shots() -> list[Shot]:
    """Every page, and some more views, in every language, scheme and on every device."""
    addresses = {entry.url: entry.url for entry in PAGES.values()} | VIEWS
    ways = list(product(("en", "ja"), ("light", "dark"), DEVICES))
    wanted = [(name, at, way) for name, at in addresses.items() for way in ways]
    wanted += [(name, at, way) for name, at in STEPS.items() for way in FEW]
    return [Shot("_".join((name, *way)), at, *way) for name, at, way in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=None, metavar="FOLDER", help="default: screenshots/")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name holds TEXT")
    parser.add_argument("--readme", action="store_true", help="the README's, to docs/screens/")
    given = parser.parse_args()
    wanted = README if given.readme else [shot for shot in shots() if given.only in shot.name]
    folder = given.to or (ROOT / "docs/screens" if given.readme else ROOT / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    with script("visitors").serving() as server, _browser() as browser:
        for shot in wanted:
            picture, faults = take(browser, f"http://127.0.0.1:{server.port}", shot)
            if given.readme:
                picture.convert("RGB").save(folder / f"{shot.name}.jpg", quality=88, optimize=True)
            else:
                picture.save(folder / f"{shot.name}.png", optimize=True)
            print(shot.name, *picture.size, *faults, flush=True)
    broken = server.said().count("Traceback")
    print(f"{len(wanted)} pictures in {folder}; {broken} exceptions in the server's log")
    return 1 if broken else 0


@contextmanager
def _browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def take(browser: Any, server: str, shot: Shot) -> tuple[Image.Image, list[str]]:
    """One picture, and what the browser complained of."""
    width, height, ratio = DEVICES[shot.device]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=ratio,
        color_scheme=shot.scheme,
        has_touch=shot.device == "phone",
    )
    try:
        page, faults = context.new_page(), []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        mark = "&" if "?" in shot.address else "?"
        page.goto(f"{server}/{shot.address}{mark}lang={shot.language}")
        page.locator("h1").first.wait_for()
        _rest(page)
        # The page scrolls inside a part of the window: make the window as high as what is in it.
        tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": max(height, min(TALLEST, tall))})
        _rest(page)
        whole = page if shot.part is None else page.locator(shot.part)
        return Image.open(io.BytesIO(whole.screenshot())), faults
    finally:
        context.close()


def _rest(page: Any) -> None:
    """Waits until nothing has run for a while: jobs let a page run again and again."""
    deadline, quiet = time.monotonic() + PATIENCE, 0
    while quiet < 4 and time.monotonic() < deadline:
        page.wait_for_timeout(400)
        busy = page.locator(BUSY).count()
        quiet = quiet + 1 if page.locator(QUIET).count() and not busy else 0


if __name__ == "__main__":
    sys.exit(main())
