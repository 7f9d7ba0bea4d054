"""What became of a visitor's jobs, said on whatever page the visitor is."""

from __future__ import annotations

import streamlit as st

from anounet.app import components, models, routing
from anounet.app.jobs import DONE, FAILED, Job
from anounet.app.texts import again, t

_SAID = "_notices"  # jobs that have ended elsewhere, and that the visitor has not closed
EVERY = 2.0  # seconds


def show(page: str | None) -> None:
    """Draws what has ended since, and listens for what is under way; the job's own page tells by itself.

    Args:
        page: the key of the page that is open.
    """
    # Always there: where what follows moved by one, a spinner over an old element would keep that one.
    place = st.container()
    state = st.session_state
    _take_note()
    state[_SAID] = [known for known in state[_SAID] if _elsewhere(known, page)]
    active = bool(components.under_way())
    if not state[_SAID] and not active:
        return

    @st.fragment(run_every=EVERY if active else None)
    def notices() -> None:
        _take_note()
        for known in state[_SAID]:
            if _elsewhere(known, page):
                _notice(models.jobs().get(known))

    with place:
        notices()


def _elsewhere(known: str, page: str | None) -> bool:
    """Whether a job belongs to another page than the one that is open."""
    job = models.jobs().get(known)
    return job is not None and components.place_of(job)[0] not in (None, page)


def _take_note() -> None:
    """Moves jobs that have ended from those under way to those to be told of."""
    under_way, said = components.under_way(), st.session_state.setdefault(_SAID, [])
    for known in tuple(under_way):
        job = models.jobs().get(known)
        if job is None or not job.active:
            under_way.discard(known)
            if job is not None and job.state in (DONE, FAILED):
                said.append(known)


def _notice(job: Job) -> None:
    place, wanted = components.place_of(job)
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"notice_{job.id}"):
        if job.state == DONE:
            st.badge(t("notice.done"), icon=":material/check:", color="green")
        else:
            st.badge(t("notice.failed"), icon=":material/error:", color="red")
        st.markdown(again(job.label), width="content")
        routing.link(place, t("notice.open"), **wanted)
        st.button(
            t("notice.close"),
            key=f"close_{job.id}",
            type="tertiary",
            icon=":material/close:",
            on_click=_close,
            args=(job.id,),
        )


def _close(known: str) -> None:
    said = st.session_state.get(_SAID, [])
    if known in said:
        said.remove(known)
