"""Every page in a real browser: axe-core finds no serious fault, and nothing overflows on a phone."""

from __future__ import annotations

from typing import Any

import pytest
from test_browser import (  # noqa: F401 (fixtures, and when to skip)
    QUIET,
    Visit,
    browser,
    made,
    pytestmark,
    server,
)

from anounet.app.routing import PAGES

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
SERIOUS = ("serious", "critical")
ADDRESSES = [entry.url for entry in PAGES.values()] + ["visualise?source=upload", "explore?show=grid"]


def faults(page: Any) -> list[str]:
    """What axe-core calls serious or critical: its rule, the element, and what is wrong."""
    found = []
    for rule in axe.Axe().run(page).response["violations"]:
        if rule["impact"] not in SERIOUS:
            continue
        for node in rule["nodes"]:
            told = [check["message"] for check in node["any"] + node["all"] + node["none"]]
            found.append(f"{rule['id']}: {node['html'][:200]} {told[:1]}")
    return found


def overflow(page: Any) -> list[int]:
    """By how many pixels the page, and its part that scrolls, are wider than what is seen of them."""
    return page.evaluate(
        "[document.documentElement, document.querySelector('[data-testid=stMain]')]"
        ".map(element => element.scrollWidth - element.clientWidth)"
    )


def opened(browser: Any, address: str, scheme: str, width: int = 1280) -> Visit:  # noqa: F811
    visit = Visit(browser, width, 900, scheme)
    visit.open(address)
    rest(visit.page)
    return visit


def rest(page: Any) -> None:
    """Until nothing runs, and nothing is faded because it is about to be drawn anew."""
    for _ in range(3):
        page.wait_for_selector(QUIET)
        page.wait_for_function("() => !document.querySelector('[data-stale=true], [data-testid=stSpinner]')")
        page.wait_for_timeout(300)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_serious_fault_and_nothing_overflows(server: str, browser: Any, address: str) -> None:  # noqa: F811
    visit = opened(browser, f"{server}/{address}", "light")
    try:
        assert not faults(visit.page)
        visit.page.emulate_media(color_scheme="dark")
        visit.page.wait_for_function(
            "() => getComputedStyle(document.querySelector('.stApp')).colorScheme === 'dark'"
        )
        rest(visit.page)
        assert not faults(visit.page)
        visit.page.set_viewport_size({"width": 390, "height": 844})
        rest(visit.page)
        assert max(overflow(visit.page)) <= 0
        visit.sound()
    finally:
        visit.context.close()


@pytest.mark.parametrize("address", ["visualise?samples=scratch", "home?lang=ja"])
def test_no_serious_fault_on_a_phone(server: str, browser: Any, address: str) -> None:  # noqa: F811
    visit = opened(browser, f"{server}/{address}", "dark", 390)
    try:
        assert not faults(visit.page)
    finally:
        visit.context.close()


def test_a_fault_is_found(server: str, browser: Any) -> None:  # noqa: F811
    """The check itself can fail: a picture without words, and grey on grey, in one of our components."""
    visit = opened(browser, f"{server}/home", "light")
    try:
        visit.page.evaluate(
            "document.querySelector('h1').insertAdjacentHTML('afterend', "
            '\'<img src="data:,"><p style="color:#aaa;background:#bbb">hardly legible</p>\')'
        )
        found = " ".join(faults(visit.page))
        assert "image-alt" in found and "color-contrast" in found
        visit.page.evaluate(
            "document.querySelector('h1').insertAdjacentHTML('afterend', '<p style=\"width:2000px\">–</p>')"
        )
        assert max(overflow(visit.page)) > 0
    finally:
        visit.context.close()
