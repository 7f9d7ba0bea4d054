"""What we draw in the browser ourselves: a component is NAME.js (an ES module) and NAME.css in this folder.

Streamlit calls the module's default export on each run with `{data, parentElement, setStateValue,
setTriggerValue}`; `parentElement` is a shadow root that stays between runs, so the script builds its elements
once and then only fills them. Texts come with `data`, from `texts`, and no address is ever fetched: the
components work without a network.
"""

from __future__ import annotations

from importlib.resources import files

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer


def component(name: str) -> ComponentRenderer:
    """The component of that name; called once, when the module that shows it is imported."""
    folder = files(__package__)
    js, css = ((folder / f"{name}.{ending}").read_text(encoding="utf-8") for ending in ("js", "css"))
    return st.components.v2.component(f"anounet.{name}", js=js, css=css)
