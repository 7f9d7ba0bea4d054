"""Pieces that pages are made of: the bundle chooser, what bundles say of themselves, the job box."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from anounet.app import figures, models, panels, routing
from anounet.app.batching import Ticket
from anounet.app.jobs import CANCELLED, FAILED, QUEUED, Job
from anounet.app.texts import Text, again, label, plain, t
from anounet.app.work.answers import Request, answered, ask_at_once
from anounet.app.work.centers import CenterOutcome
from anounet.bundle import Bundle, bundle_names
from anounet.center import HELD_BACK, MIN_IMAGES, Center
from anounet.local_centers import LocalCenters
from anounet.prepare import Scores
from anounet.storage import WeightsError
from anounet.visualization import Result


def header(key_title: str, key_lead: str) -> None:
    """A page's title and its one-sentence lead, and the style that panels share."""
    st.html(panels.STYLE)
    st.title(key_title, anchor=False)
    st.markdown(key_lead)


def sentence(error: BaseException | None) -> str:
    """What to tell the visitor: the core's sentences as they are, anything else by its kind."""
    if isinstance(error, ValueError | ArithmeticError) and str(error):
        said = error.args[0] if error.args else None
        return plain(again(said) if isinstance(said, Text) else str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return t("error.memory")
    if isinstance(error, OSError):
        return t("error.disk", reason=error.strerror or type(error).__name__)
    return t("error.unexpected", kind=type(error).__name__)


def duration(seconds: float) -> str:
    if seconds < 90:
        return t("time.seconds", n=f"{max(1, round(seconds))}")
    if seconds < 5400:
        return t("time.minutes", n=f"{round(seconds / 60)}")
    return t("time.hours", n=f"{seconds / 3600:.1f}")


# --- bundles -----------------------------------------------------------------------------------------


def choose_bundle(caption: str) -> tuple[Bundle, str] | None:
    """A chooser of bundles, kept in the link; None, with a sentence on the page, where none can be used."""
    names = bundle_names()
    if not names:
        st.warning(t("bundle.none"), icon=":material/inventory_2:")
        return None
    asked = st.query_params.get("bundle")
    if asked is not None and asked not in names:
        st.warning(t("bundle.unknown", name=plain(asked), known=", ".join(names)))
    name = st.selectbox(caption, names, key="bundle", bind="query-params", help=t("bundle.help"))
    return open_bundle(name)


def open_bundle(name: str) -> tuple[Bundle, str] | None:
    try:
        with st.spinner(t("bundle.opening", name=name)):
            return models.bundle(name)
    except (WeightsError, OSError) as error:
        st.error(t("bundle.refused", name=name, reason=sentence(error)), icon=":material/gpp_bad:")
        return None


def set_label(name: str) -> str:
    """What to call a data set: not by the path of a folder on the server."""
    path = Path(name)
    return t("data.own", name=path.parent.name) if path.parent != Path() else label(name)


def f_net_facts(bundle: Bundle, facts: Mapping[str, Any], shipped: bool) -> None:
    """What an f-Net says of itself, as a short table."""
    settings = facts.get("settings") or {}
    metrics = facts.get("metrics") or {}
    rows = {
        t("facts.normal"): label(str(bundle.info.get("normal", "–"))),
        t("facts.data"): set_label(str(facts.get("data", bundle.info.get("data", "–")))),
        t("facts.excluded"): ", ".join(map(label, facts.get("exclude") or ())) or t("facts.nothing"),
        t("facts.images"): f"{facts['images']:,}" if isinstance(facts.get("images"), int) else "–",
        t("facts.start"): str(facts.get("starting_weights", "–")),
        t("facts.net"): t(
            "facts.net_value",
            width=f"{bundle.f_net.settings.width:g}",
            alpha=f"{bundle.f_net.settings.alpha:g}",
        ),
        t("facts.training"): t(
            "facts.training_value",
            method=str(facts.get("method", "–")),
            epochs=settings.get("epochs", "–"),
            batch=settings.get("batch", "–"),
        ),
        t("facts.accuracy"): f"{metrics['accuracy']:.0%}" if "accuracy" in metrics else "–",
        t("facts.hash"): bundle.f_net.fingerprint[:12],
        t("facts.has"): ", ".join(
            name
            for name, part in (
                ("C", bundle.center),
                (t("facts.local"), bundle.local),
                (t("facts.identity"), bundle.identity),
                (t("facts.instant"), bundle.instant),
                *((label(rival), True) for rival in bundle.rivals),
            )
            if part is not None
        )
        or t("facts.nothing"),
    }
    if shipped:
        st.caption(t("facts.shipped"))
    _table(rows)


def _table(rows: Mapping[str, str]) -> None:
    """Names and values in two columns."""
    columns = {"": list(rows), " ": list(rows.values())}
    st.table(columns, hide_index=True, hide_header=True, border="horizontal")


def center_facts(center: Center, scores: Scores | None) -> None:
    with st.container(horizontal=True, key="center_facts"):
        st.metric(t("center.m_images"), f"{center.count:,}", width=150)
        st.metric(t("center.m_held"), f"{len(center.held_back):,}", width=150)
        st.metric(
            t("center.m_threshold"),
            f"{center.threshold:.4f}",
            help=t("center.threshold_help", share=f"{center.quantile:.0%}"),
            width=150,
        )
        if scores is not None and scores.image_auroc is not None:
            st.metric(
                t("center.m_auroc"), f"{scores.image_auroc:.3f}", help=t("center.auroc_help"), width=150
            )


def local_facts(local: LocalCenters) -> None:
    """How local centres were made, as figures and a short table."""
    settings, held = local.settings, held_back_count(local)
    with st.container(horizontal=True, key="local_facts"):
        st.metric(t("local.m_centers"), f"{len(local.means):,}", width=150)
        st.metric(t("local.m_images"), f"{local.count:,}", width=150)
        st.metric(t("center.m_held"), f"{held:,}", width=150)
        st.metric(
            t("local.m_tau"),
            f"{local.tau:.3f}",
            help=t("local.tau_help", share=f"{settings.quantile:.0%}"),
            width=150,
        )
    pairs = ", ".join(f"{n} ({w:g})" for n, w in zip(settings.layers, settings.weights, strict=True))
    rows = {
        t("local.layers"): pairs,
        t("local.features"): f"{local.means.shape[1]:,}",
        t("local.quantile"): f"{settings.quantile:.0%}",
        t("local.metric"): label(f"metric.{settings.metric}"),
    }
    _table(rows)
    skipped = [str(name) for name in local.meta.get("skipped", ())]
    if skipped:
        st.caption(t("local.skipped", n=len(skipped), names=plain(", ".join(skipped[:10]))))


def held_back_count(local: LocalCenters) -> int:
    """How many images set τ: the number that leaves `local.count` at the share that was held back."""
    share = float(local.meta.get("held_back_share", HELD_BACK))
    most = round(local.count / max(1e-6, 1 - share)) + 3
    for count in range(max(MIN_IMAGES, local.count + 2), most + 1):
        if count - max(2, round(count * share)) == local.count:
            return count - local.count
    return 0


def prepared(outcome: CenterOutcome) -> None:
    """Says what a computation of C saved, and which images it left out."""
    st.success(t("center.saved", name=outcome.name, n=f"{outcome.images:,}"), icon=":material/check_circle:")
    if outcome.skipped:
        st.warning(t("center.skipped", n=len(outcome.skipped)), icon=":material/broken_image:")
        for name, why in outcome.skipped[:5]:
            st.caption(plain(why if name in why else f"{name}: {why}"))


# --- answers of a moment -----------------------------------------------------------------------------

MOMENT = 0.5  # seconds before a place in the queue is shown, and until it is shown anew


def answer_at_once(request: Request, bundle: Bundle) -> dict[str, Result]:
    """`instant` mode's results, by the pictures' keys; while it takes longer, the place in the queue.

    Raises:
        WeightsError: the bundle lacks a part.
    """
    place = st.empty()
    ticket = ask_at_once(models.batcher(), bundle, request)
    try:
        while not ticket.wait(MOMENT):
            place.caption(_place(ticket))  # where the run of a visitor who has left ends
        place.empty()
        found, faults = answered(ticket, request)
    finally:
        ticket.leave()
    for name, fault in faults.items():
        st.warning(f"{plain(name)}: {fault}", icon=":material/error:")
    return found


def _place(ticket: Ticket[Result]) -> str:
    ahead, seconds = ticket.ahead, ticket.seconds
    if ahead == 0:
        said = t("queue.now")
    else:
        said = t("queue.one_ahead") if ahead == 1 else t("queue.ahead", n=ahead)
    return said if seconds is None else f"{said} · {t('job.left', time=duration(seconds))}"


# --- jobs --------------------------------------------------------------------------------------------


_PLACES = "_job_places"
_UNDER_WAY = "_jobs_under_way"


def owner() -> str:
    """Names this visitor's session, as the owner of jobs."""
    return models.present(st.session_state.setdefault("_owner", secrets.token_hex(8)))


def current_job(kind: str) -> Job | None:
    """This session's job of a kind, or the one that the link names."""
    for known in (st.session_state.get(f"_job_{kind}"), st.query_params.get("job")):
        job = models.jobs().get(known)
        if job is not None and job.kind == kind:
            return job
    return None


def remember(job: Job, *, link: bool = True) -> None:
    """Makes a job this session's own and puts it into the link, so that a refresh finds it."""
    let_go(job.kind, but=job.id)
    models.jobs().join(job, owner())
    st.session_state[f"_job_{job.kind}"] = job.id
    if link and st.query_params.get("job") != job.id:
        st.query_params["job"] = job.id
    places = st.session_state.setdefault(_PLACES, {})
    places[job.id] = (routing.here(), routing.parameters())
    if job.active:
        under_way().add(job.id)


def under_way() -> set[str]:
    """The ids of this session's jobs that have not ended, as far as it knows.

    They are noted as soon as they are its own, for one may end in the moment in which its page is left.
    """
    return st.session_state.setdefault(_UNDER_WAY, set())


def place_of(job: Job) -> tuple[str | None, dict[str, list[str]]]:
    """The page on which this session has a job, and what its link says; None where it has it nowhere."""
    return st.session_state.get(_PLACES, {}).get(job.id, (None, {}))


def let_go(kind: str, but: str = "") -> None:
    """Stops this session's job of a kind, unless another session waits for it too."""
    before = st.session_state.get(f"_job_{kind}")
    if before is not None and before != but:
        models.jobs().release(models.jobs().get(before), owner())
        under_way().discard(before)
        del st.session_state[f"_job_{kind}"]


def busy(kind: str) -> bool:
    job = current_job(kind)
    return job is not None and job.active


def job_box(job: Job, x: str = "", *, curves: bool = True, titles: Sequence[str] = ()) -> None:
    """Progress, time left, place in the queue and a stop, drawn anew each second while the job is active.

    As soon as something is finished that the page can show, the whole page is drawn again.

    Args:
        titles: of the rows that the job's pictures form, as many pictures in each.
    """
    if not job.active:
        return
    drawn = job.progress.milestones

    @st.fragment(run_every=1.0)
    def box() -> None:
        progress = job.progress
        if not job.active or progress.milestones != drawn:
            st.rerun()
        with st.container(border=True, key=f"job_{job.kind}"):
            st.markdown(f"**{again(job.label)}**")
            if job.state == QUEUED:
                ahead = models.jobs().ahead_of(job)
                first = ahead[0] if ahead else job
                named, share = again(first.label), f"{first.progress.share:.0%}"
                st.progress(0.0, t("job.queued", n=len(ahead), first=named, share=share))
            else:
                st.progress(progress.share, _progress_text(progress))
            # Above what grows and is drawn anew each second: a button that moves is missed by clicks.
            st.button(
                t("job.stopping") if job.cancelled else t("job.stop"),
                key=f"stop_{job.kind}",
                icon=":material/stop_circle:",
                disabled=job.cancelled,
                on_click=job.cancel,
            )
            if progress.samples:
                row = max(1, len(progress.samples) // max(1, len(titles)))
                cells = [
                    panels.figure(pixels, titles[number // row] if titles else "", alt=t("alt.sample"))
                    for number, pixels in enumerate(progress.samples)
                ]
                st.html(panels.STYLE + panels.grid(cells, "au-rows" if titles else "au-live"))
            if curves and progress.curves and progress.done > 1:
                _curves(progress.curves, progress.done, x or t("chart.step"), f"job_curves_{job.kind}")

    box()


def _progress_text(progress: Any) -> str:
    parts = [again(progress.message)]
    if progress.total and progress.done:
        parts.append(t("job.count", done=progress.done, total=progress.total))
    left = progress.remaining()
    if left is not None and progress.share < 1:
        parts.append(t("job.left", time=duration(left)))
    return " · ".join(parts)


def _curves(values: Mapping[str, Sequence[float]], done: int, x: str, key: str) -> None:
    """One small chart a quantity: they have scales of their own."""
    for column, (name, line) in zip(st.columns(len(values)), values.items(), strict=True):
        figure = figures.curves({label(name): line}, done, x, height=200)
        column.plotly_chart(figure, key=f"{key}_{name}", config=figures.CONFIG, alt=t("alt.curve", name=name))


def final_curves(values: Mapping[str, Sequence[float]], done: int, x: str, key: str) -> None:
    _curves(values, done, x, key)


def job_end(job: Job | None) -> None:
    """Says why a job has nothing to show, if so."""
    if job is None or job.active:
        return
    if job.state == FAILED:
        st.error(sentence(job.error), icon=":material/error:")
    elif job.state == CANCELLED and job.result is None:
        st.info(t("job.stopped"), icon=":material/stop_circle:")
