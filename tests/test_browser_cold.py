"""A link to any page, opened before any other on a server that has just started, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_browser import Visit, browser, made, pytestmark, serving  # noqa: F401 (fixtures, and when to skip)

from anounet.app.routing import PAGES, TITLES
from anounet.app.texts import speaking


@pytest.mark.parametrize("key", PAGES)
def test_the_page_opens_with_the_apps_own_menu(made: Path, browser: Any, key: str) -> None:  # noqa: F811
    with serving(made) as address:
        visit = Visit(browser, 1400, 900)
        try:
            page = visit.open(f"{address}/{PAGES[key].url}?lang=ja")
            menu = page.locator("[data-testid='stTopNavLink']")
            menu.first.wait_for()
            visit.sound()
            assert page.url.startswith(f"{address}/{PAGES[key].url}?") and "lang=ja" in page.url
            shown = [link.rpartition("\n")[2] for link in menu.all_inner_texts()]
            assert len(shown) == len(PAGES) and "home" not in " ".join(shown)  # no names of files
            assert page.get_by_text("Page not found").count() == 0
            with speaking("ja"):
                assert shown == [str(title()) for title in TITLES.values()]
        finally:
            visit.context.close()
