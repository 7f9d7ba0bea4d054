"""What became of a visitor's jobs, said on whatever page the visitor is."""

from __future__ import annotations

import streamlit as st

from anounet.app import components, models, routing
from anounet.app.jobs import DONE, FAILED, Job
from anounet.app.texts import again, t

_OPEN = "_notices_open"  # jobs of this session that were under way when a page was last drawn
_SAID = "_notices"  # those that have ended, and the visitor was not told yet
EVERY = 2.0  # seconds


def show(page: str | None) -> None:
    """Draws what has ended since, and listens for what is under way; the job's own page tells by itself.

    Args:
        page: the key of the page that is open.
    """
    # Always there: where what follows moved by one, a spinner over an old element would keep that one.
    place = st.container()
    state = st.session_state
    jobs = models.jobs().of(components.owner())
    _take_note(jobs)
    state[_SAID] = [known for known in state[_SAID] if _elsewhere(known, page)]
    active = any(job.active for job in jobs)
    if not state[_SAID] and not active:
        return

    @st.fragment(run_every=EVERY if active else None)
    def notices() -> None:
        _take_note(models.jobs().of(components.owner()))
        for known in state[_SAID]:
            if _elsewhere(known, page):
                _notice(models.jobs().get(known))

    with place:
        notices()


def _elsewhere(known: str, page: str | None) -> bool:
    """Whether a job belongs to another page than the one that is open."""
    job = models.jobs().get(known)
    return job is not None and components.place_of(job)[0] not in (None, page)


def _take_note(jobs: list[Job]) -> None:
    """Moves jobs that have ended from those under way to those to be told of."""
    state = st.session_state
    under_way, said = state.setdefault(_OPEN, set()), state.setdefault(_SAID, [])
    for job in jobs:
        if job.active:
            under_way.add(job.id)
        elif job.id in under_way:
            under_way.discard(job.id)
            if job.state in (DONE, FAILED):
                said.append(job.id)


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
