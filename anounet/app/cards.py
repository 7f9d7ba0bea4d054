"""How results are shown: a card for each picture, the table of all, and what is known of a request so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from anounet.app import downloads, figures, film, findings, models, panels, viewer
from anounet.app.texts import label, plain, t
from anounet.app.work.answers import Picture, Request, find
from anounet.bundle import Bundle
from anounet.images import png_bytes, to_pixels
from anounet.visualization import Result

CURVE_POINTS = 120


def verdict_badge(result: Result) -> None:
    if result.anomalous:
        st.badge(t("verdict.anomalous"), icon=":material/warning:", color="red")
    else:
        st.badge(t("verdict.normal"), icon=":material/check:", color="green")


def score_text(result: Result, value: float) -> str:
    """A score as its kind is written: C's distances are small numbers, a map's peak is a few units."""
    return f"{value:.4f}" if result.method in ("fast", "article") else f"{value:.2f}"


def score_line(result: Result, rivals: Mapping[str, Result]) -> str:
    parts = [
        t(
            "score.line",
            score=score_text(result, result.score),
            ratio=f"{_ratio(result):.2f}",
            threshold=score_text(result, result.threshold),
        )
    ]
    if result.y is not None:
        parts.append(t("seconds.ano_unet", n=f"{result.seconds:.2f}"))
    for name, rival in rivals.items():
        parts.append(t("seconds.rival", rival=label(name), n=f"{rival.seconds:.2f}"))
    return " · ".join(parts)


def _ratio(result: Result) -> float:
    return result.score / max(result.threshold, 1e-9)


def result_card(
    picture: Picture,
    result: Result,
    rivals: Mapping[str, Result],
    request: Request,
    view: panels.View,
    bundle: Bundle,
    *,
    pending: bool,
    refining: bool = False,
    number: int,
) -> None:
    """One picture: verdict, what was found in words, the picture to look into, panels, downloads.

    Args:
        rivals: their answers so far, by their methods.
        pending: further ones are on their way.
        refining: so is Ano-Unet's own, with the steps that were asked for; this is the one before them.
    """
    with st.container(border=True, key=f"card_{number}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            verdict_badge(result)
            st.markdown(f"**{plain(picture.name)}**", width="content")
            if refining:
                st.badge(t("refine.pending"), icon=":material/autorenew:", color="grey")
        st.caption(score_line(result, rivals) + (f" · {picture.note}" if picture.note else ""))
        look, read = st.columns(2, gap="medium")
        with look:
            viewer.show(picture.name, [result, *rivals.values()], view, f"viewer_{number}")
        with read:
            st.markdown(findings.found(result, view))
            st.markdown(findings.certainty(result, bundle))
            region_table(result, view, number)
            st.caption(findings.overlooked(result, bundle))
        waited = [name for name in request.rivals if pending and name not in rivals]
        shown = [name for name in request.rivals if name in rivals or name in waited]
        cells = panels.ano_unet_cells(picture.name, result, view)
        for name in shown:
            cells.append(panels.rival_note(name, rivals.get(name)))
            if name in rivals:
                cells += panels.rival_cells(picture.name, rivals[name], view)
            else:
                cells += panels.rival_waiting(name)
        bar = panels.colour_bar(view, bundle, [result, *rivals.values()])
        st.html(panels.grid(cells) + f'<div class="au-flat">{bar}</div>')
        film.offer(picture, request, bundle, view, number)
        with st.expander(t("card.more"), icon=":material/show_chart:"):
            _loss_charts(result, rivals.get("anogan"), request, number)
            file_buttons(picture, result, view, number, request.facts)


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
    searched = rival is not None and bool(rival.losses)
    if len(next(iter(result.losses.values()), ())) < 2 and not searched:
        values = ", ".join(f"{label(name)} {line[-1]:.4f}" for name, line in result.losses.items())
        st.caption(t("card.no_steps", values=values))
        return
    with st.container(horizontal=True):
        if len(next(iter(result.losses.values()), ())) > 1:
            with st.container(width=420):
                st.markdown(t("card.ano_unet_losses", beta=f"{request.settings.beta:g}"))
                if result.steps < request.settings.steps:
                    st.caption(t("card.stopped", n=result.steps, steps=request.settings.steps))
                figure = figures.losses(_thin(result.losses), request.settings.beta)
                st.plotly_chart(figure, key=f"losses_{number}", config=figures.CONFIG, alt=t("alt.losses"))
        if searched:
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


def file_buttons(
    picture: Picture, result: Result, view: panels.View, number: int, facts: Mapping[str, object]
) -> None:
    """What can be taken away of one picture; `facts` are the request's own."""
    base, shown = downloads.stem(picture.name), downloads.Shown(picture.name, result)
    files = (
        (
            t("download.overlay"),
            "overlay.png",
            lambda: png_bytes(panels.marked_overlay(result, view)),
        ),
        (t("download.normalised"), "normalised.png", lambda: png_bytes(to_pixels(result.y))),
        (t("download.map"), "map.npy", lambda: downloads.npy_bytes(panels.shown_map(result, view))),
        (t("download.regions"), "regions.csv", lambda: downloads.regions_csv([shown], view)),
        (t("download.settings"), "settings.json", lambda: downloads.settings_json(shown, view, facts)),
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
            t("table.ratio"): round(_ratio(result), 2),
            t("table.regions"): len(panels.shown_regions(result, view)) if result.y is not None else None,
            t("table.ano_unet"): round(result.seconds, 2) if result.y is not None else None,
            **{label(name): round(r.seconds, 2) for name, r in rivals.items()},
        }
        for picture, result, rivals in ((e.picture, e.result, e.rivals) for e in entries)
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


@dataclass(frozen=True)
class Entry:
    """What is known of one picture of a request so far."""

    picture: Picture
    result: Result
    rivals: dict[str, Result]  # by their methods, as far as they have answered
    refining: bool  # the result is the one before the refining steps that were asked for


def gathered(request: Request, at_once: Mapping[str, Result]) -> list[Entry]:
    """What is known of a request so far; in `instant` mode what was answered at once until it is refined.

    Args:
        at_once: a picture's key → that answer, which the cache may have let go of for other visitors.
    """
    cache, found = models.results(), []
    for picture in request.pictures:
        result, refining = find(cache, request, picture), False
        if result is None and request.instant:
            result, refining = at_once.get(picture.key), request.settings.steps > 0
        if result is not None:
            answers = {name: cache.get(request.compared(picture, name)) for name in request.rivals}
            answers = {name: r for name, r in answers.items() if r is not None and result.y is not None}
            found.append(Entry(picture, result, answers, refining))
    return found
