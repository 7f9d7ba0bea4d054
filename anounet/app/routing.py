"""The pages, their addresses, and the cure for deep links on a server that has just started.

Until some session has called `st.navigation`, Streamlit runs a file of `pages/` by itself when its address is
opened. Each page therefore begins with `enter`, which goes through the entrypoint once and comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from anounet.app import languages
from anounet.app.texts import t

_ENTERED, _TARGET, _HERE = "_routing_entered", "_routing_target", "_routing_here"
ENTRYPOINT = "streamlit_app.py"


@dataclass(frozen=True)
class PageEntry:
    """A page: its file, its address, its icon; its title is the text `page.<key>`."""

    file: str
    url: str
    icon: str


PAGES = {
    "home": PageEntry("pages/0_home.py", "home", ":material/home:"),
    "f_net": PageEntry("pages/1_f_net.py", "f_net", ":material/neurology:"),
    "center": PageEntry("pages/2_center.py", "center", ":material/adjust:"),
    "visualise": PageEntry("pages/3_visualise.py", "visualise", ":material/image_search:"),
    "own": PageEntry("pages/4_own_images.py", "own_images", ":material/add_photo_alternate:"),
    "experiments": PageEntry("pages/5_experiments.py", "experiments", ":material/science:"),
    "explore": PageEntry("pages/6_explore.py", "explore", ":material/explore:"),
    "two_images": PageEntry("pages/7_two_images.py", "two_images", ":material/compare:"),
    "story": PageEntry("pages/8_how_it_works.py", "how_it_works", ":material/school:"),
}
TITLES = {
    "home": lambda: t("page.home"),
    "f_net": lambda: t("page.f_net"),
    "center": lambda: t("page.center"),
    "visualise": lambda: t("page.visualise"),
    "own": lambda: t("page.own"),
    "experiments": lambda: t("page.experiments"),
    "explore": lambda: t("page.explore"),
    "two_images": lambda: t("page.two_images"),
    "story": lambda: t("page.story"),
}


def navigate(before: Callable[[str | None], None]) -> None:
    """The entrypoint's last call: registers the pages and runs the one that was asked for.

    Args:
        before: draws what every page begins with; it is given the page's key.
    """
    pages: dict[str, StreamlitPage] = {
        key: st.Page(entry.file, title=TITLES[key](), icon=entry.icon, url_path=entry.url)
        for key, entry in PAGES.items()
    }

    def start() -> None:
        """The default page answers at "/" only, no longer at its own name, so it is none of these."""
        st.switch_page(pages["home"], query_params=st.query_params.to_dict())

    st.session_state[_ENTERED] = True
    opening = st.Page(start, title=t("page.home"), default=True, visibility="hidden")
    current = st.navigation([opening, *pages.values()], position="top")
    st.session_state[_HERE] = next((key for key, page in pages.items() if page == current), None)
    target = st.session_state.pop(_TARGET, None)
    if target is not None and pages[target].url_path != current.url_path:
        st.switch_page(pages[target], query_params=parameters())
    languages.switch()
    before(here())
    current.run()


def here() -> str | None:
    """The key of the page that is open."""
    return st.session_state.get(_HERE)


def parameters() -> dict[str, list[str]]:
    """All of the link's parameters; `to_dict` would keep the last of those that repeat."""
    return {key: st.query_params.get_all(key) for key in st.query_params}


def enter(key: str) -> None:
    """Each page's first call: where the entrypoint has not run in this session, goes through it."""
    if not st.session_state.get(_ENTERED):
        st.session_state[_TARGET] = key
        st.switch_page(ENTRYPOINT, query_params=parameters())


def go(key: str, **wanted: str) -> NoReturn:
    """Opens a page at once, with what it should show."""
    st.switch_page(PAGES[key].file, query_params=languages.parameters() | wanted)


def link(key: str, label: str, **wanted: str | list[str]) -> None:
    """A link to a page, with what it should open, in the language of this one."""
    wanted = wanted | languages.parameters()
    st.page_link(PAGES[key].file, label=label, icon=PAGES[key].icon, query_params=wanted or None)
