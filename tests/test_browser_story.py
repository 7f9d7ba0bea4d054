"""How it works in a real browser: gone through by keyboard, on a desktop and a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from test_browser import (  # noqa: F401 (fixtures, and when to skip)
    QUIET,
    SECONDS,
    Visit,
    browser,
    made,
    pytestmark,
    server,
    sync_api,
)

from anounet.app import story
from anounet.app.texts import speaking

TITLES = [str(slide.title()) for slide in story.SLIDES]
LAST = len(TITLES)


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def visitor(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, *request.param)
    yield visit
    visit.context.close()


def opened(visit: Visit, address: str) -> Any:
    """The page, when it listens to keys: a component's module is fetched after it was first drawn."""
    page = visit.open(address)
    page.wait_for_selector("html[data-keys='heard']", state="attached")
    page.wait_for_selector(QUIET)
    return page


def at(page: Any, number: int) -> None:
    """Waits until a step and its pictures are there, and nothing of another one."""
    sync_api.expect(page.locator("h1")).to_have_text(TITLES[number - 1], timeout=SECONDS * 1000)
    sync_api.expect(page.locator(".au-fact").first).to_be_visible(timeout=SECONDS * 1000)
    sync_api.expect(page.locator(".au-dots b")).to_have_text(f"{number} / {LAST}", timeout=SECONDS * 1000)
    page.wait_for_url(re.compile(rf"[?&]step={number}(&|$)"))


def test_no_press_is_lost_while_pictures_are_still_being_computed(
    server: str,  # noqa: F811
    browser: Any,  # noqa: F811
) -> None:
    """The first test of a server that has just started: the page draws itself anew all the time."""
    visit = Visit(browser, 1280, 900)
    try:
        page = visit.open(f"{server}/how_it_works?step=1")
        page.wait_for_selector("html[data-keys='heard']", state="attached")
        for number in range(2, LAST + 1):
            page.locator(".au-fact").first.wait_for()
            page.keyboard.press("PageDown")  # in the middle of a run
            page.locator(".au-dots b", has_text=f"{number} / {LAST}").wait_for()
        at(page, LAST)
        visit.sound()
    finally:
        visit.context.close()


def test_the_keyboard_leads_forwards_and_backwards_through_all_steps(
    server: str,  # noqa: F811
    visitor: Visit,
) -> None:
    page = opened(visitor, f"{server}/how_it_works?step=1")
    at(page, 1)
    for number in range(2, LAST + 1):
        page.keyboard.press(("ArrowRight", "PageDown", "Space")[number % 3])
        at(page, number)
        box = page.locator(".st-key-story_nav").bounding_box()
        window = page.viewport_size
        assert box["y"] + box["height"] <= window["height"] + 1  # in sight, however long the step
        main = page.locator("[data-testid='stMain']")
        assert main.evaluate("e => e.scrollWidth <= e.clientWidth")
        for picture in page.locator(".au-hall img").all():
            assert picture.get_attribute("alt") and picture.evaluate("e => e.complete && e.naturalWidth > 0")
    page.keyboard.press("ArrowRight")  # there is no more
    at(page, LAST)
    for number in range(LAST - 1, 0, -1):
        page.keyboard.press(("ArrowLeft", "PageUp", "Shift+Space")[number % 3])
        at(page, number)
    visitor.sound()


def test_no_press_is_lost_and_home_and_end_lead_to_the_ends(server: str, visitor: Visit) -> None:  # noqa: F811
    page = opened(visitor, f"{server}/how_it_works?step=1")
    at(page, 1)
    page.wait_for_selector("[data-testid='stApp'][data-test-script-state='notRunning']")
    for _ in range(5):
        page.keyboard.press("PageDown", delay=5)
    at(page, 6)
    page.keyboard.press("End")
    at(page, LAST)
    page.keyboard.press("Home")
    at(page, 1)
    visitor.sound()


def test_a_deep_link_a_refresh_and_the_buttons(server: str, visitor: Visit) -> None:  # noqa: F811
    page = opened(visitor, f"{server}/how_it_works?step=7")
    at(page, 7)
    page.reload()
    at(page, 7)
    page.locator(".st-key-story_next button").click()
    at(page, 8)
    page.keyboard.press("PageUp")  # the button still has the focus
    at(page, 7)
    page.locator(".st-key-story_back button").focus()
    page.keyboard.press("Space")  # it presses the button, once
    at(page, 6)
    visitor.sound()


def test_arrows_choose_where_they_are_for_choosing(server: str, browser: Any) -> None:  # noqa: F811
    visit = Visit(browser, 1280, 900)
    try:
        page = opened(visit, f"{server}/how_it_works?step=3")
        at(page, 3)
        page.get_by_role("radio", name="日本語").click()
        with speaking("ja"):
            here, after = (str(story.SLIDES[n].title()) for n in (2, 3))
        sync_api.expect(page.locator("h1")).to_have_text(here)
        page.get_by_role("radio", name="日本語").focus()
        page.keyboard.press("ArrowLeft")  # to the other language's button
        page.wait_for_timeout(500)
        assert "step=3" in page.url
        page.keyboard.press("PageDown")
        page.wait_for_url(re.compile(r"step=4"))
        sync_api.expect(page.locator("h1")).to_have_text(
            re.compile(f"{re.escape(after)}|{re.escape(TITLES[3])}")
        )
        visit.sound()
    finally:
        visit.context.close()
