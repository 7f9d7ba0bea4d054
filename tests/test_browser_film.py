"""The film's player in a real browser: made, scrubbed by keyboard, played, on a desktop and a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_browser import (  # noqa: F401 (fixtures, and when to skip)
    SECONDS,
    Visit,
    browser,
    made,
    pytestmark,
    server,
    sync_api,
)

from anounet.app.texts import speaking, t

SLIDER = ".film input[type=range]"
DRAWN = """canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
  return Array.from(pixels).join()
}"""


@pytest.fixture(params=[(1400, 1000, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def visitor(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, *request.param)
    yield visit
    visit.context.close()


def make(visit: Visit, server: str) -> Any:  # noqa: F811
    """Opens Visualise, asks for the film, and gives the slider."""
    page = visit.open(f"{server}/visualise?rival=false&samples=scratch")
    page.locator(".st-key-film_0 button").click()
    drawn = sync_api.expect(page.locator(".film canvas").last)
    drawn.to_have_attribute("width", "32", timeout=SECONDS * 1000)  # not before the sheets are there
    return page.locator(SLIDER)


def canvases(page: Any) -> list[str]:
    return [page.locator(".film canvas").nth(n).evaluate(DRAWN) for n in (0, 1)]


def test_a_film_is_made_and_scrubbed_by_keyboard(server: str, visitor: Visit) -> None:  # noqa: F811
    slider = make(visitor, server)
    page = visitor.page
    step, last = page.locator(".film .step"), int(slider.get_attribute("max"))
    assert step.inner_text() == f"Step 0 of {last}"
    first = canvases(page)
    slider.focus()
    slider.press("ArrowRight")
    assert step.inner_text() == f"Step 1 of {last}"
    assert "L_R" in slider.get_attribute("aria-valuetext")
    slider.press("End")
    assert step.inner_text() == f"Step {last} of {last}"
    end = canvases(page)
    assert end[0] != first[0] and end[1] != first[1]
    way, drawn = page.locator(".film polyline.path").nth(1), len(page.locator(".film svg polyline").all())
    assert drawn == 6 and len(way.get_attribute("points").split(" ")) == last + 1
    slider.press("Home")
    assert step.inner_text() == f"Step 0 of {last}" and canvases(page) == first
    box, width = page.locator(".film").bounding_box(), page.viewport_size["width"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    panels = [page.locator(".film figure").nth(n).bounding_box() for n in range(4)]
    rows = {round(panel["y"]) for panel in panels}
    assert len(rows) == (1 if width > 1000 else 2) and min(panel["width"] for panel in panels) > 130
    visitor.sound()


def test_it_plays_to_its_end_and_space_stops_it(server: str, visitor: Visit) -> None:  # noqa: F811
    slider = make(visitor, server)
    page, button = visitor.page, visitor.page.locator(".film button")
    assert button.inner_text().strip() == "Play"  # nothing moves by itself
    slider.focus()
    slider.press("Space")
    assert button.inner_text().strip() == "Pause"
    slider.press("Space")
    assert button.inner_text().strip() == "Play"
    slider.press("End")
    button.click()  # from the start again
    last = slider.get_attribute("max")
    page.locator(".film .step", has_text=f"Step {last} of {last}").wait_for()
    page.locator(".film button", has_text="Play").wait_for()
    with page.expect_download() as download:
        page.locator(".st-key-get_film_0 button").click()
    assert download.value.suggested_filename.endswith("_scratch_film.webp")
    visitor.sound()


def test_the_scrubber_stays_where_it_is_in_another_language_and_a_refresh_finds_the_film(
    server: str,  # noqa: F811
    browser: Any,  # noqa: F811
) -> None:
    visit = Visit(browser, 1400, 1000)
    try:
        slider = make(visit, server)
        page = visit.page
        slider.focus()
        slider.press("ArrowRight")
        page.get_by_role("radio", name="日本語").click()
        with speaking("ja"):
            said = str(t("film.step", n=1, last=int(slider.get_attribute("max"))))
        page.locator(".film .step", has_text=said).wait_for()
        page.reload()
        page.locator(SLIDER).wait_for()
        visit.sound()
    finally:
        visit.context.close()
