"""The visitor's language: what the link says, else what was chosen in this session, else the browser's.

Widgets' keys and values do not depend on it, but browsers and links name options as they are shown. So where
the language changes, what is chosen is set once more, and `inputs.accept_plain` reads every language's names.
"""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from anounet.app import texts
from anounet.app.texts import DEFAULT_LANGUAGE, LANGUAGES, NAMES, t

PARAMETER = "lang"
SWITCH = "language"
_NOW, _CHOSEN = "_language", "_language_chosen"


def begin() -> None:
    """The entrypoint's first call: sets the session's language, and keeps a chosen one in the link."""
    texts.ask(_of_session)
    state, asked = st.session_state, st.query_params.get(PARAMETER)
    if asked in LANGUAGES:
        state[_CHOSEN] = asked
    elif _CHOSEN in state:
        st.query_params[PARAMETER] = state[_CHOSEN]
    now = state[_CHOSEN] if _CHOSEN in state else of_browser(st.context.locale)
    before = state.get(_NOW, now)
    state[_NOW] = state[SWITCH] = now
    if before != now:
        _say_choices_again()


def of_browser(locale: str | None) -> str:
    """The language for a browser's locale, such as "ja-JP"."""
    name = (locale or "").replace("_", "-").partition("-")[0].lower()
    return name if name in LANGUAGES else DEFAULT_LANGUAGE


def switch() -> None:
    """The choice of a language, each by its own name, at the top of every page."""
    with st.container(horizontal=True, horizontal_alignment="right", key="languages"):
        st.segmented_control(
            t("language.choose"),
            list(NAMES),
            required=True,
            format_func=NAMES.__getitem__,
            key=SWITCH,
            on_change=_choose,
            label_visibility="collapsed",
        )


def parameters() -> dict[str, str]:
    """What links between pages carry, so that they open in the same language."""
    chosen = st.session_state.get(_CHOSEN)
    return {} if chosen is None else {PARAMETER: chosen}


def _choose() -> None:
    chosen = st.session_state[SWITCH]
    if chosen in LANGUAGES:
        st.query_params[PARAMETER] = chosen


def _of_session() -> str | None:
    """None outside of a session, as in a job's thread."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    return st.session_state.get(_NOW)


def _say_choices_again() -> None:
    """Sets each choice to what it is: the browser names it as the language before did, and would lose it."""
    state = st.session_state
    for key in list(state):
        value = state[key]
        if _is_choice(value) or (isinstance(value, list) and value and all(map(_is_choice, value))):
            state[key] = value


def _is_choice(value: object) -> bool:
    """Not so of buttons, uploads and charts, whose values cannot be set."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)
