"""Long work in a real browser: left, found again in a second tab, told of when it ends, stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_browser import (  # noqa: F401 (fixtures, and when to skip)
    Visit,
    browser,
    made,
    pytestmark,
    server,
)

BOX, START = ".st-key-job_visualise", ".st-key-start button"
PAGE = "visualise?mode=article&rival=false&all=true"


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def visitor(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, *request.param)
    yield visit
    visit.context.close()


def begin(visit: Visit, address: str) -> Any:
    """Starts an optimisation as the article's, and waits until its progress is shown."""
    page = visit.open(address)
    page.locator(START).click()
    page.locator(BOX).wait_for()
    page.wait_for_function("() => location.search.includes('job=')")
    return page


def to_home(page: Any) -> None:
    if page.viewport_size["width"] < 600:
        page.locator("[data-testid='stExpandSidebarButton']").click()
    page.get_by_role("link", name="Home").first.click()
    page.get_by_role("heading", name="Ano-Unet", exact=True).wait_for()


def test_a_job_is_left_and_found_again_and_told_of(
    server: str,  # noqa: F811
    browser: Any,  # noqa: F811
    visitor: Visit,
) -> None:
    first, second = Visit(browser, 1280, 900), Visit(browser, 1280, 900)
    try:
        before = begin(first, f"{server}/{PAGE}&steps=500&samples=missing")  # all others wait behind this one
        sample = "band" if visitor.page.viewport_size["width"] > 600 else "blob"  # a job of one's own
        page = begin(visitor, f"{server}/{PAGE}&steps=5&samples={sample}")
        link = page.url
        page.reload()
        page.locator(BOX).get_by_text("Waiting:", exact=False).wait_for()  # the refresh found it
        other = second.open(link)
        other.locator(BOX).wait_for()
        to_home(page)
        before.locator(f"{BOX} button").click()
        notice = page.locator("[class*='st-key-notice_']")
        notice.wait_for()
        assert "Finished" in notice.inner_text()
        other.get_by_alt_text("Heat map of", exact=False).first.wait_for()
        first.sound()
        second.sound()
    finally:
        first.context.close()
        second.context.close()
    notice.get_by_role("link").click()
    page.get_by_role("heading", name="Visualise", exact=True).wait_for()
    page.get_by_alt_text("Heat map of", exact=False).first.wait_for()
    notice.wait_for(state="detached")
    visitor.sound()


def test_a_job_is_stopped_and_begun_again(server: str, visitor: Visit) -> None:  # noqa: F811
    page = begin(visitor, f"{server}/{PAGE}&steps=200&samples=scratch")
    page.locator(f"{BOX} button").click()
    page.locator(BOX).wait_for(state="detached")
    page.get_by_text("Stopped", exact=False).first.wait_for()
    page.locator(START).click()
    page.locator(BOX).wait_for()
    page.locator(f"{BOX} button").click()  # nobody waits for it
    page.locator(BOX).wait_for(state="detached")
    visitor.sound()
