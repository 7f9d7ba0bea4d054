"""How long a visitor waits for each page: on a server that has just started, and on a warm one.

    python -m anounet bench pages [--rounds 5] [--bundle NAME] [--no-cold] [--json FILE]

Starts the real server, on two cores where the machine has more, and asks for each page over Streamlit's own
protocol, a new visitor each time. "first" is the first thing of the page itself, "map" the first heat map,
"at rest" the end of the run. Cold: a server of its own for each page, which no page was asked of before; it
loads what the pages need before it listens, which is told too. Warm: the median of later visits. Where
Chromium and Playwright are there, "painted" is that of a browser with an empty cache, from the address to the
heading of the page, on the warm server.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from anounet.app.routing import PAGES
from anounet.bundle import SHIPPED, read_info
from anounet.cli.bench import script
from anounet.cli.common import table
from anounet.storage import write_json

visitors = script("visitors")
MAP = 'alt="Heat map'
STAY = 15.0  # seconds of the first visitor, whose jobs would end with the visit
COLUMNS = {"first": "first", "map": "map", "at rest": "rest"}  # → the field of Times


@dataclass(frozen=True)
class Times:
    """Seconds from the visitor's request on; None: the page has no such thing."""

    first: float | None
    map: float | None
    rest: float


class Reader(visitors.Visitor):
    """A visitor who looks at a page and goes."""

    async def look(self, page: str, stay: float, **query: str) -> Times:
        """Opens a page, waits until it is at rest, and `stay` seconds more, as jobs need their visitor."""
        begun, first, found = time.monotonic(), None, None
        await self._begin(page, **query)
        while True:
            message = await self._next()
            seconds = time.monotonic() - begun
            if self._finished(message):
                await asyncio.sleep(stay)
                await self.leave()
                return Times(first, found, seconds)
            if message.WhichOneof("type") != "delta":
                continue
            kind, element = message.delta.new_element.WhichOneof("type"), message.delta.new_element
            if first is None and kind == "heading":
                first = seconds
            if found is None and kind == "html" and MAP in element.html.body:
                found = seconds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench pages", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="warm visits of a page (default: 5)"
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"default: {SHIPPED}")
    parser.add_argument("--no-cold", action="store_true", help="the warm server alone")
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the figures to FILE too"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        raise ValueError("--rounds is at least 1.")
    read_info(given.bundle)  # says what is wrong, where something is
    rows, starting = measure(given.rounds, given.bundle, cold=not given.no_cold)
    print(
        f"{date.today()}, {platform.machine()}, {visitors.CORES} cores, '{given.bundle}', seconds; "
        f"warm: median of {given.rounds}; the server listens {starting:.1f} s after its start\n\n"
        + table(rows)
    )
    if given.json is not None:
        settings = {k: str(v) for k, v in vars(given).items()}
        write_json(given.json, {"rows": rows, "starting": f"{starting:.1f}", "settings": settings})
    return 0


def measure(rounds: int, bundle: str, cold: bool) -> tuple[list[dict[str, str]], float]:
    """A row for each page, and the median of the seconds from a server's start until it listens."""
    rows = {key: {"page": entry.url} for key, entry in PAGES.items()}
    starting = []
    for key, entry in PAGES.items() if cold else ():
        with visitors.serving() as server:
            starting.append(server.starting)
            rows[key] |= _columns("cold", [_look(server, entry.url, bundle)])
            _sound(server)
    with visitors.serving() as server:
        starting.append(server.starting)
        for key, entry in PAGES.items():
            _look(server, entry.url, bundle, stay=STAY)  # what is kept of it is computed now
            looked = [_look(server, entry.url, bundle) for _ in range(rounds)]
            rows[key] |= _columns("warm", looked)
        with _browser() as browser:
            for key, entry in PAGES.items():
                address = f"http://127.0.0.1:{server.port}/{entry.url}?bundle={bundle}"
                rows[key]["warm: painted"] = _median([_painted(browser, address) for _ in range(rounds)])
        _sound(server)
    return list(rows.values()), statistics.median(starting)


def _look(server: Any, page: str, bundle: str, stay: float = 0) -> Times:
    return asyncio.run(Reader(server.port).look(page, stay, bundle=bundle))


def _columns(state: str, looked: list[Times]) -> dict[str, str]:
    values = (
        [times.first for times in looked],
        [times.map for times in looked],
        [times.rest for times in looked],
    )
    return {f"{state}: {name}": _median(list(found)) for name, found in zip(COLUMNS, values, strict=True)}


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f}" if known else "–"


def _sound(server: Any) -> None:
    if "Traceback" in server.said():
        raise ValueError(f"The app broke: {server.said()[-400:]}")


@contextmanager
def _browser() -> Iterator[Any | None]:
    """Chromium; None where it or Playwright is missing."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        sync_api = importlib.import_module("playwright.sync_api")
    except ImportError:
        path = None
    if path is None:
        yield None
        return
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _painted(browser: Any | None, address: str) -> float | None:
    if browser is None:
        return None
    context = browser.new_context()
    try:
        page, begun = context.new_page(), time.monotonic()
        page.goto(address, wait_until="commit")
        page.locator("h1").first.wait_for()
        seconds = time.monotonic() - begun
        page.wait_for_selector("[data-testid='stApp'][data-test-script-state='notRunning']")
        return seconds
    finally:
        context.close()


if __name__ == "__main__":
    sys.exit(main())
