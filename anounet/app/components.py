"""Pieces that pages are made of: the bundle chooser, the job box, the cards of results."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from anounet.app import figures, models, panels
from anounet.app.jobs import CANCELLED, FAILED, QUEUED, Job
from anounet.app.texts import label, plain, t
from anounet.app.work import CenterOutcome, Picture, Request, find
from anounet.bundle import Bundle, Result, bundle_names
from anounet.center import HELD_BACK, MIN_IMAGES, Center
from anounet.images import png_bytes, to_pixels
from anounet.local_centers import LocalCenters
from anounet.prepare import Scores
from anounet.storage import WeightsError

CURVE_POINTS = 120


def header(key_title: str, key_lead: str) -> None:
    """A page's title and its one-sentence lead, and the style that panels share."""
    st.html(panels.STYLE)
    st.title(key_title, anchor=False)
    st.markdown(key_lead)


def sentence(error: BaseException | None) -> str:
    """What to tell the visitor: the core's sentences as they are, anything else by its kind."""
    if isinstance(error, ValueError | ArithmeticError) and str(error):
        return plain(str(error))
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
            "facts.training_value", epochs=settings.get("epochs", "–"), batch=settings.get("batch", "–")
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
                ("AnoGAN", bundle.anogan),
            )
            if part is not None
        )
        or t("facts.nothing"),
    }
    if shipped:
        st.caption(t("facts.shipped"))
    st.table(
        {"": list(rows), " ": list(rows.values())}, hide_index=True, hide_header=True, border="horizontal"
    )


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
    st.table(
        {"": list(rows), " ": list(rows.values())}, hide_index=True, hide_header=True, border="horizontal"
    )
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


# --- jobs --------------------------------------------------------------------------------------------


def owner() -> str:
    """Names this visitor's session, as the owner of jobs."""
    return st.session_state.setdefault("_owner", secrets.token_hex(8))


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
    st.session_state[f"_job_{job.kind}"] = job.id
    if link and st.query_params.get("job") != job.id:
        st.query_params["job"] = job.id


def let_go(kind: str, but: str = "") -> None:
    """Stops this session's job of a kind, unless another session waits for it too."""
    before = st.session_state.get(f"_job_{kind}")
    if before is not None and before != but:
        models.jobs().release(models.jobs().get(before), owner())
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
            st.markdown(f"**{job.label}**")
            if job.state == QUEUED:
                ahead = models.jobs().ahead_of(job)
                first = ahead[0] if ahead else job
                st.progress(
                    0.0, t("job.queued", n=len(ahead), first=first.label, share=f"{first.progress.share:.0%}")
                )
            else:
                st.progress(progress.share, _progress_text(progress))
            if progress.samples:
                row = max(1, len(progress.samples) // max(1, len(titles)))
                cells = [
                    panels.figure(pixels, titles[number // row] if titles else "", alt=t("alt.sample"))
                    for number, pixels in enumerate(progress.samples)
                ]
                st.html(panels.STYLE + panels.grid(cells, "au-rows" if titles else "au-live"))
            if curves and progress.curves and progress.done > 1:
                _curves(progress.curves, progress.done, x or t("chart.step"), f"job_curves_{job.kind}")
            st.button(
                t("job.stopping") if job.cancelled else t("job.stop"),
                key=f"stop_{job.kind}",
                icon=":material/stop_circle:",
                disabled=job.cancelled,
                on_click=job.cancel,
            )

    box()


def _progress_text(progress: Any) -> str:
    parts = [progress.message]
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


# --- results -----------------------------------------------------------------------------------------


def verdict_badge(result: Result) -> None:
    if result.anomalous:
        st.badge(t("verdict.anomalous"), icon=":material/warning:", color="red")
    else:
        st.badge(t("verdict.normal"), icon=":material/check:", color="green")


def score_text(result: Result, value: float) -> str:
    """A score as its kind is written: C's distances are small numbers, a map's peak is a few units."""
    return f"{value:.4f}" if result.method in ("fast", "article") else f"{value:.2f}"


def score_line(result: Result, rival: Result | None) -> str:
    parts = [
        t(
            "score.line",
            score=score_text(result, result.score),
            ratio=f"{result.score / max(result.threshold, 1e-9):.2f}",
            threshold=score_text(result, result.threshold),
        )
    ]
    if result.y is not None:
        parts.append(t("seconds.ano_unet", n=f"{result.seconds:.2f}"))
    if rival is not None:
        parts.append(t("seconds.anogan", n=f"{rival.seconds:.2f}"))
    return " · ".join(parts)


def result_card(
    picture: Picture,
    result: Result,
    rival: Result | None,
    request: Request,
    view: panels.View,
    bundle: Bundle,
    *,
    pending: bool,
    refining: bool = False,
    number: int,
) -> None:
    """One picture: verdict and score, panels on one scale, the regions found, curves and downloads.

    Args:
        pending: AnoGAN's answer is on its way.
        refining: so is Ano-Unet's own, with the steps that were asked for; this is the one before them.
    """
    with st.container(border=True, key=f"card_{number}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            verdict_badge(result)
            st.markdown(f"**{plain(picture.name)}**", width="content")
            if refining:
                st.badge(t("refine.pending"), icon=":material/autorenew:", color="grey")
        st.caption(score_line(result, rival) + (f" · {picture.note}" if picture.note else ""))
        cells = panels.ano_unet_cells(picture.name, result, view)
        if request.anogan is not None and (rival is not None or pending):
            cells.append(panels.colour_bar(view, bundle, [r for r in (result, rival) if r is not None]))
            if rival is not None:
                cells += panels.anogan_cells(picture.name, rival, view)
            else:
                titles = (t("panel.generated"), t("panel.heat_anogan"), t("panel.overlay_anogan"))
                cells += [panels.waiting(title, t("anogan.searching")) for title in titles]
            st.html(panels.grid(cells))
        else:
            bar = panels.colour_bar(view, bundle, [result])
            st.html(panels.grid(cells) + f'<div class="au-flat">{bar}</div>')
        region_table(result, view, number)
        with st.expander(t("card.more"), icon=":material/show_chart:"):
            _loss_charts(result, rival, request, number)
            _downloads(picture, result, view, number)


def region_table(result: Result, view: panels.View, number: int) -> None:
    """The regions that are outlined on the map, by their numbers."""
    found = panels.shown_regions(result, view)
    if view.threshold == "off":
        return
    if not found:
        st.caption(t("regions.none", name=label(f"map.{view.name(result)}")))
        return
    st.markdown(t("regions.some", n=len(found), side=result.x.shape[-1]))
    st.dataframe(
        [
            {
                t("regions.number"): place,
                t("regions.place"): f"{region.x:.0f}, {region.y:.0f}",
                t("regions.box"): f"{region.width} × {region.height}",
                t("regions.area"): region.area,
                t("regions.score"): round(region.score, 2),
            }
            for place, region in enumerate(found, 1)
        ],
        hide_index=True,
        column_config={t("regions.number"): st.column_config.NumberColumn(width=40)},
        height="content" if len(found) <= 6 else 248,
        width="stretch",
        key=f"regions_{number}",
    )


def _loss_charts(result: Result, rival: Result | None, request: Request, number: int) -> None:
    if len(next(iter(result.losses.values()), ())) < 2 and rival is None:
        values = ", ".join(f"{label(name)} {line[-1]:.4f}" for name, line in result.losses.items())
        st.caption(t("card.no_steps", values=values))
        return
    with st.container(horizontal=True):
        if len(next(iter(result.losses.values()), ())) > 1:
            with st.container(width=420):
                st.markdown(t("card.ano_unet_losses", beta=f"{request.settings.beta:g}"))
                figure = figures.losses(_thin(result.losses), request.settings.beta)
                st.plotly_chart(figure, key=f"losses_{number}", config=figures.CONFIG, alt=t("alt.losses"))
        if rival is not None:
            with st.container(width=420):
                st.markdown(t("card.anogan_losses", score=f"{rival.score:.1f}"))
                steps = len(next(iter(rival.losses.values()))) - 1
                lines = {label(name): line for name, line in _thin(rival.losses).items()}
                figure = figures.curves(lines, steps, t("chart.step"))
                st.plotly_chart(figure, key=f"search_{number}", config=figures.CONFIG, alt=t("alt.losses"))


def _thin(losses: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {
        name: list(line) if len(line) <= CURVE_POINTS else [*line[:: -(-len(line) // CURVE_POINTS)], line[-1]]
        for name, line in losses.items()
    }


def _downloads(picture: Picture, result: Result, view: panels.View, number: int) -> None:
    base, shown = panels.stem(picture.name), panels.Shown(picture.name, result)
    files = (
        (
            t("download.overlay"),
            "overlay.png",
            lambda: png_bytes(panels.marked_overlay(result, view)),
        ),
        (t("download.normalised"), "normalised.png", lambda: png_bytes(to_pixels(result.y))),
        (t("download.map"), "map.npy", lambda: panels.npy_bytes(panels.shown_map(result, view))),
        (t("download.regions"), "regions.csv", lambda: panels.regions_csv([shown], view)),
    )
    with st.container(horizontal=True):
        for name, ending, data in files:
            st.download_button(
                name,
                data,
                f"{base}_{ending}",
                key=f"get_{ending}_{number}",
                on_click="ignore",
                icon=":material/download:",
            )


def left_out_sheet(entries: Sequence[tuple[Picture, Result]]) -> None:
    """The pictures that the score calls normal: listed with their scores, not redrawn."""
    if not entries:
        return
    st.markdown(t("gate.title", n=len(entries)))
    first = entries[0][1]
    st.caption(t("gate.why", threshold=score_text(first, first.threshold)))
    cells = [
        panels.figure(
            picture.pixels,
            picture.name,
            t("gate.entry", score=score_text(result, result.score)),
            t("alt.original", name=picture.name),
        )
        for picture, result in entries
    ]
    st.html(panels.grid(cells, "au-sheet"))


def score_table(entries: Sequence[Entry], view: panels.View) -> None:
    rows = [
        {
            t("table.image"): picture.name,
            t("table.verdict"): t("verdict.anomalous") if result.anomalous else t("verdict.normal"),
            t("table.score"): round(result.score, 5),
            t("table.ratio"): round(result.score / max(result.threshold, 1e-9), 2),
            t("table.regions"): len(panels.shown_regions(result, view)) if result.y is not None else None,
            t("table.ano_unet"): round(result.seconds, 2) if result.y is not None else None,
            t("table.anogan"): round(rival.seconds, 2) if rival is not None else None,
        }
        for picture, result, rival in ((e.picture, e.result, e.rival) for e in entries)
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


@dataclass(frozen=True)
class Entry:
    """What is known of one picture of a request so far."""

    picture: Picture
    result: Result
    rival: Result | None
    refining: bool  # the result is the one before the refining steps that were asked for


def gathered(request: Request) -> list[Entry]:
    """What is known of a request so far; in `instant` mode what was answered at once until it is refined."""
    cache, found = models.results(), []
    for picture in request.pictures:
        result, refining = find(cache, request, picture), False
        if result is None and request.instant:
            result, refining = find(cache, request.at_once, picture), True
        if result is not None:
            shown = request.anogan is not None and result.y is not None
            rival = cache.get(request.rival(picture)) if shown else None
            found.append(Entry(picture, result, rival, refining))
    return found


def set_label(name: str) -> str:
    """What to call a data set: not by the path of a folder on the server."""
    path = Path(name)
    return t("data.own", name=path.parent.name) if path.parent != Path() else label(name)
