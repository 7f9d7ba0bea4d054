"""How it works, drawn: the article's story in twelve steps, for a hall.

Each step has a title, a sentence or two, pictures, and a measured figure that says where it is from. What is
shown is computed by one job, in the story's order; what has come is kept for everybody.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from anounet.app import components, figures, frontend, inputs, models, panels
from anounet.app.jobs import DONE, QUEUED, Job, job_id
from anounet.app.texts import again, label, plain, t
from anounet.app.work import story as work
from anounet.app.work.story import Piece
from anounet.bundle import SHIPPED, bundle_names
from anounet.storage import WeightsError

STORY = "story"  # the kind of the job, and the page's key
STEP = "step"  # in the link
AGAIN = "story_again"  # the button
SECONDS = 0.5  # between looks at what has come
# Seconds an image in the best batch, and pixel AP of `instant` mode and of nearest patch: README, "Measured".
SPEED = {"article": 76.6, "anogan": 2.29, "instant": 0.0125}
FASTER = {"anogan": 180, "article": 6000}
FOUND = {"textures": (0.739, 0.614), "star": (0.799, 0.631)}
SCRATCHES = (0.568, 0.998)  # image AUROC on DAGM's star: F's score, and the distance of every patch
LARGE = 18  # pixels: letters in charts

_keys = frontend.component("keys")

STYLE = """
<style>
[data-testid="stMainBlockContainer"]:has(.st-key-story) {padding-bottom: 1rem;}
[data-testid="stMainBlockContainer"]:has(.st-key-story) .st-key-languages
  {margin-bottom: -3.4rem; position: relative; z-index: 8;}
.st-key-story {gap: clamp(0.6rem, 1.1vh, 1rem); --rest: calc(100vh - 19rem - 13.5vw);}
.st-key-story h1 {font-size: clamp(1.9rem, 3.1vw, 3.8rem); line-height: 1.12; padding: 0 0 0.7rem;}
.au-kicker {font-size: clamp(0.95rem, 1.1vw, 1.4rem); opacity: 0.8; margin: 0; padding: 0.4rem 0;}
.au-lead {font-size: clamp(1.15rem, 1.9vw, 2.3rem); line-height: 1.32; margin: 0;}
.au-lead b, .au-terms b {font-weight: 650;}
.au-hall {display: grid; gap: clamp(0.5rem, 1.2vw, 1.6rem); align-items: start;}
.au-hall.au-n2 {grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: max(30rem, 2 * var(--rest));}
.au-hall.au-n3 {grid-template-columns: repeat(3, minmax(0, 1fr)); max-width: max(40rem, 3 * var(--rest));}
.au-hall.au-n4 {grid-template-columns: repeat(4, minmax(0, 1fr)); max-width: max(40rem, 2.7 * var(--rest));}
.au-hall.au-low {max-width: max(40rem, 2.65 * var(--rest));}
.au-hall.au-n5 {grid-template-columns: repeat(5, minmax(0, 1fr));}
.au-hall.au-n6 {grid-template-columns: repeat(6, minmax(0, 1fr));}
.au-hall figure {margin: 0; min-width: 0;}
.au-hall figure + figure {margin-top: 0.5rem;}
.au-hall > figure + figure {margin-top: 0;}
.au-hall img {width: 100%; aspect-ratio: 1; object-fit: cover; display: block; border-radius: 0.5rem;
  border: 1px solid color-mix(in srgb, currentColor 16%, transparent); box-sizing: border-box;}
.au-hall .au-tile img {aspect-ratio: 3.2; image-rendering: pixelated;}
.au-hall figcaption {font-size: clamp(0.95rem, 1.35vw, 1.65rem); line-height: 1.25; padding-top: 0.35rem;}
.au-hall.au-n6 figcaption {font-size: clamp(0.95rem, 1.25vw, 1.5rem);}
.au-hall figcaption b {font-weight: 600;}
.au-hall figcaption span {opacity: 0.82; display: block; font-size: 0.9em;}
.au-hall .au-wait {font-size: clamp(1rem, 1.5vw, 1.7rem);}
.au-formula {font-size: clamp(1.7rem, 3.2vw, 4rem); font-weight: 600; margin: 0; line-height: 1.2;
  font-family: "STIX Two Math", "Cambria Math", Cambria, Georgia, serif;}
.au-terms {font-size: clamp(1rem, 1.5vw, 1.85rem); margin: 0.3rem 0 0; line-height: 1.4;}
.au-fact {display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.1rem 1.2rem; margin: 0;}
.au-fact strong {font-size: clamp(1.6rem, 2.7vw, 3.3rem); font-weight: 700; line-height: 1.1;
  font-variant-numeric: tabular-nums;}
.au-fact span {font-size: clamp(1.02rem, 1.55vw, 1.9rem); line-height: 1.3; flex: 1 1 17em;}
.au-fact em {font-style: normal; font-size: 0.75em; border: 1px solid currentColor; border-radius: 1em;
  padding: 0.05em 0.7em; white-space: nowrap; opacity: 0.85;}
.au-bars {display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0.6rem 1rem; align-items: center;
  font-size: clamp(1rem, 1.5vw, 1.85rem); margin: 0;}
.au-bars dt {font-weight: 600;}
.au-bars dd {margin: 0; display: flex; align-items: center; gap: 0.6rem; font-variant-numeric: tabular-nums;
  white-space: nowrap;}
.au-bars i {display: block; height: 1.5em; border-radius: 0.3rem; background: #0f9488; min-width: 3px;}
.au-bars .au-other i {background: #d9622b;}
.au-bars p {margin: 0; grid-column: 1 / -1; font-size: 0.8em; opacity: 0.85;}
.au-key {display: flex; flex-wrap: wrap; gap: 0.2rem 1.6rem; margin: 0;
  font-size: clamp(1rem, 1.5vw, 1.85rem);}
.au-key i {display: inline-block; width: 0.75em; height: 0.75em; border-radius: 50%; margin-right: 0.4em;}
.au-dots {display: flex; gap: clamp(0.2rem, 0.5vw, 0.55rem); align-items: center; justify-content: center;
  font-size: 1rem; white-space: nowrap;}
.au-dots i {width: clamp(0.45rem, 0.8vw, 0.85rem); aspect-ratio: 1; border-radius: 50%;
  border: 1.5px solid currentColor; box-sizing: border-box; opacity: 0.55;}
.au-dots i.au-seen {background: currentColor;}
.au-dots i.au-here {background: #0f9488; border-color: #0f9488; opacity: 1; transform: scale(1.35);}
.au-dots b {padding-left: 0.5rem; font-weight: 600; font-variant-numeric: tabular-nums;}
div:has(> .st-key-story_nav) {position: sticky; bottom: 0; z-index: 9;}
.st-key-story_nav {padding: 0.4rem 0.7rem; border-radius: 0.7rem;
  background: light-dark(#f1f5f6, #1a262b);}
@media (min-width: 1600px) {
  .st-key-story .js-plotly-plot svg text {font-size: 26px !important;}
}
@media (max-width: 640px) {
  .au-hall.au-n3, .au-hall.au-n4, .au-hall.au-n5, .au-hall.au-n6
    {grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: none;}
  .au-hall.au-n5 > figure:first-child, .au-hall.au-n3 > figure:first-child
    {grid-column: 1 / -1; width: 60%;}
  .st-key-story .js-plotly-plot svg text {font-size: 13px !important;}
  .au-dots i {display: none;}
}
</style>
"""


# --- which step --------------------------------------------------------------------------------------


def step() -> int:
    """The step that the link names, within its range; without one, or with nonsense, the first."""
    return int(inputs.clamp(st.query_params.get(STEP), 1, len(SLIDES), 1))


def turn(to: int) -> None:
    """Turns to a step, which the link then names."""
    st.query_params[STEP] = str(int(inputs.clamp(to, 1, len(SLIDES), 1)))


def _by_key() -> None:
    wanted = st.session_state["story_keys"].get("wanted")
    if wanted is not None:
        turn(wanted)


def navigation(now: int) -> None:
    """Back, where one is, Next."""
    last = len(SLIDES)
    with st.container(
        horizontal=True,
        horizontal_alignment="distribute",
        vertical_alignment="center",
        key="story_nav",
    ):
        st.button(
            t("story.back"),
            key="story_back",
            icon=":material/arrow_back:",
            disabled=now == 1,
            on_click=turn,
            args=(now - 1,),
        )
        dots = "".join(
            f'<i class="{"au-here" if n == now else "au-seen" if n < now else ""}"></i>'
            for n in range(1, last + 1)
        )
        said = html.escape(t("story.at", n=now, of=last), quote=True)
        st.html(
            f'<div class="au-dots" role="img" aria-label="{said}">{dots}<b>{now} / {last}</b></div>',
            width="content",
        )
        st.button(
            t("story.next"),
            key="story_next",
            icon=":material/arrow_forward:",
            icon_position="right",
            type="primary",
            disabled=now == last,
            on_click=turn,
            args=(now + 1,),
        )


# --- what is computed --------------------------------------------------------------------------------


def begin(first: str) -> tuple[Job | None, str]:
    """Starts what is missing, in the background; gives the job, if there is one, and the bundle's version.

    What failed or was stopped is begun anew where that is asked for.

    Raises:
        WeightsError: the shipped bundle cannot be read.
    """
    version, cache = models.version_of(SHIPPED), models.stories()
    key = f"story {version}"
    job = models.jobs().get(job_id(key))
    absent = set(work.missing(version, cache))
    if not absent or (job is not None and job.active):
        return job, version
    ended = job is not None and (job.state != DONE or absent <= set(job.faults))
    if not ended or st.session_state.get(AGAIN):
        job = models.jobs().submit(
            key,
            STORY,
            t("story.job"),
            lambda job: work.tell(
                job,
                version,
                cache,
                lambda: models.bundle(SHIPPED)[0],
                models.choice,
                lambda: models.feature_cloud(SHIPPED, version),
                first,
            ),
            owner=components.owner(),
            bundles=(SHIPPED,),
        )
    return job, version


def show() -> None:
    """The step that the link names, and the way on."""
    now = step()
    slide = SLIDES[now - 1]
    st.html(panels.STYLE + STYLE)
    # First, so that the keys know of a step before anybody sees it.
    _keys(key="story_keys", data={"step": now, "count": len(SLIDES)}, on_wanted_change=_by_key)
    with st.container(key="story"):
        st.html(f'<p class="au-kicker">{html.escape(t("page.story"))} · {now} / {len(SLIDES)}</p>')
        st.title(slide.title(), anchor=False)
        st.html(f'<p class="au-lead">{_emphasised(slide.lead())}</p>')
        _show(slide)
        navigation(now)


def _show(slide: Slide) -> None:
    if not bundle_names():
        st.warning(t("bundle.none"), icon=":material/inventory_2:")
        return
    try:
        job, version = begin(slide.piece)
    except (WeightsError, OSError) as error:
        said = t("bundle.refused", name=SHIPPED, reason=components.sentence(error))
        st.error(said, icon=":material/gpp_bad:")
        return
    piece = models.stories().get(work.kept_as(version, slide.piece))
    if piece is None:
        _wait(job, version, slide)
    else:
        slide.draw(piece)


def _wait(job: Job | None, version: str, slide: Slide) -> None:
    """Until a step's pictures are there: how far the others are."""
    if job is None or not job.active:
        if job is not None and slide.piece in job.faults:
            st.error(plain(job.faults[slide.piece]), icon=":material/error:")
        components.job_end(job)
        st.button(t("story.again"), key=AGAIN, icon=":material/refresh:")
        return

    @st.fragment(run_every=SECONDS)
    def waiting() -> None:
        if models.stories().get(work.kept_as(version, slide.piece)) is not None or not job.active:
            st.rerun()
        ahead = models.jobs().ahead_of(job)
        if job.state == QUEUED and ahead:
            progress = ahead[0].progress
            said = t("job.queued", n=len(ahead), first=again(ahead[0].label), share=f"{progress.share:.0%}")
        else:
            ready = len(work.PIECES) - len(work.missing(version, models.stories()))
            said = t("story.computing", n=ready, of=len(work.PIECES))
        cells = [panels.waiting("", said)] * 3
        st.html(f'<div class="au-hall au-n3" role="status">{"".join(cells)}</div>')

    waiting()


# --- pieces of a step --------------------------------------------------------------------------------


def _emphasised(text: str) -> str:
    """A text of ours, whose **bold** is the only markup."""
    parts = html.escape(text).split("**")
    return "".join(f"<b>{part}</b>" if number % 2 else part for number, part in enumerate(parts))


def _row(cells: Sequence[str], kind: str = "") -> None:
    st.html(f'<div class="au-hall au-n{len(cells)} {kind}">{"".join(cells)}</div>')


def _fact(number: str, said: str, live: bool = True) -> None:
    """The step's measured figure, what it is, and where it is from."""
    source = t("story.live") if live else t("story.readme")
    st.html(
        f'<p class="au-fact"><strong>{html.escape(number)}</strong>'
        f"<span>{_emphasised(said)} <em>{html.escape(source)}</em></span></p>"
    )


def _tile(pixels: np.ndarray, title: str, note: str = "", alt: str = "") -> str:
    return panels.figure(pixels, title, note, alt).replace("<figure>", '<figure class="au-tile">', 1)


def _original(piece: Piece, title: str = "") -> str:
    name = label(piece.words["defect"])
    note, alt = t("story.defective", name=name), t("alt.original", name=name)
    return panels.figure(piece.pictures["x"], title or t("story.image"), note, alt)


def _changed(name: str, more: str = "") -> str:
    return t("story.alt_change", name=name) + (f", {more}" if more else "")


def _three(piece: Piece) -> list[str]:
    """The image, redrawn, and what was changed."""
    name = label(piece.words["defect"])
    return [
        panels.figure(
            piece.pictures["x"], "x", t("story.defective", name=name), t("alt.original", name=name)
        ),
        panels.figure(piece.pictures["y"], "y = G(x)", t("story.redrawn"), t("alt.normalised", name=name)),
        panels.figure(
            piece.pictures["heat"], "abs(x − y)", t("story.changed"), t("story.alt_change", name=name)
        ),
    ]


def _large(figure: go.Figure, height: int) -> go.Figure:
    """A chart with letters for a hall; what its colours mean stands above it, see `_key`."""
    font = {"size": LARGE}
    figure.update_layout(height=height, font=font, showlegend=False)
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(tickfont=font, title_font=font)
    figure.update_annotations(font=font)
    figure.update_traces(line_width=4, selector={"mode": "lines"})
    return figure


def _key(names: Mapping[str, str]) -> None:
    """What a chart's colours mean: name → colour. Plotly's own legend does not grow with the window."""
    marks = "".join(
        f'<span><i style="background: {colour}"></i>{html.escape(name)}</span>'
        for name, colour in names.items()
    )
    st.html(f'<div class="au-key">{marks}</div>')


def _chart(figure: go.Figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, key=key, config=figures.CONFIG | {"staticPlot": True}, alt=alt)


def _grey(change: float) -> str:
    return f"{change:.1f}" if change >= 0.1 else f"{change:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×"


# --- the steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slide:
    """A step: the piece it shows, its words, and how the piece is drawn."""

    piece: str
    title: Callable[[], str]
    lead: Callable[[], str]
    draw: Callable[[Piece], None]


def _question(piece: Piece) -> None:
    name = label(piece.words["defect"])
    _row(
        [
            panels.figure(
                piece.pictures["x"],
                t("story.image"),
                t("story.defective", name=name),
                t("alt.original", name=name),
            ),
            panels.figure(piece.pictures["y"], t("story.normal"), "", t("alt.normalised", name=name)),
            panels.figure(piece.pictures["heat"], t("story.where"), "", t("alt.overlay", name=name)),
        ]
    )
    _fact(_times(piece.numbers["ratio"]), t("story.question.fact"))


def _score(piece: Piece) -> None:
    normal, anomalous = piece.series["normal"], piece.series["anomalous"]
    figure = figures.score_histogram(normal, anomalous, piece.numbers["threshold"], t("chart.normals"))
    figure.update_layout(margin_t=44)
    _key({t("chart.normals"): figures.NORMAL, t("chart.abnormal"): figures.ABNORMAL})
    _chart(_large(figure, 440), "story_scores", t("story.score.alt"))
    _fact(
        f"{piece.numbers['auroc']:.2f}",
        t(
            "story.score.fact",
            normal=len(normal),
            bad=len(anomalous),
            found=int(piece.numbers["found"]),
            alarms=int(piece.numbers["alarms"]),
        ),
    )


def _mean(piece: Piece) -> None:
    pictures, name = piece.pictures, label(piece.words["defect"])
    own = [
        _tile(pictures["C"], "C", t("story.mean.c"), t("story.mean.alt_c")),
        _tile(pictures["F x"], "F(x)", t("story.defective", name=name), t("story.mean.alt_f")),
    ]
    columns = [own]
    for n in range(work.NORMALS):
        normal = panels.figure(pictures[f"normal {n}"], t("story.mean.normal"))
        columns.append([normal, _tile(pictures[f"off {n}"], "abs(F(x) − C)", "", t("story.mean.alt_normal"))])
    off = _tile(pictures["off x"], "abs(F(x) − C)", "", t("story.mean.alt_bad"))
    columns.append([panels.figure(pictures["x"], t("story.defective", name=name)), off])
    _row([f"<div>{''.join(column)}</div>" for column in columns])
    _fact(
        f"{_times(piece.numbers['normal'])} · {_times(piece.numbers['sample'])}",
        t("story.mean.fact", n=f"{int(piece.numbers['images']):,}"),
    )


def _objective(piece: Piece) -> None:
    left, right = st.columns([1.35, 1], gap="large", vertical_alignment="center")
    with left:
        st.html(
            '<p class="au-formula">L = L<sub>R</sub> + β · L<sub>C</sub></p>'
            f'<p class="au-terms">{_emphasised(t("story.objective.terms"))}</p>'
        )
        _row(_three(piece))
    with right:
        lines = {"L_R": piece.series["L_R"], "β · L_C": piece.series["L_C"]}
        figure = figures.curves(lines, int(piece.numbers["steps"]), t("chart.step"))
        _key(dict(zip(lines, figures.LINES, strict=False)))
        _chart(_large(figure, 400), "story_losses", t("story.objective.alt"))
    _fact(
        f"{piece.numbers['before']:.2f} → {piece.numbers['after']:.2f}",
        t("story.objective.fact", steps=int(piece.numbers["steps"]), beta=f"{piece.numbers['beta']:g}"),
    )


def _residual(piece: Piece) -> None:
    _row(_three(piece))
    numbers = piece.numbers
    _fact(
        _grey(numbers["all"]),
        t(
            "story.residual.fact",
            steps=int(numbers["steps"]),
            before=_times(numbers["before"]),
            after=_times(numbers["score"]),
        ),
    )


def _centering(piece: Piece) -> None:
    _row(_three(piece))
    numbers = piece.numbers
    _fact(
        _grey(numbers["outside"]),
        t(
            "story.centering.fact",
            inside=_grey(numbers["inside"]),
            before=_times(numbers["before"]),
            after=_times(numbers["score"]),
        ),
    )


def _beta(piece: Piece) -> None:
    numbers = piece.numbers
    betas = [f"{numbers[f'beta {n}']:g}" for n in range(3)]
    names = [
        t("story.beta.small", beta=betas[0]),
        t("story.beta.own", beta=betas[1]),
        t("story.beta.large", beta=betas[2]),
    ]
    _pairs(piece, names)
    _fact(
        " · ".join(_grey(numbers[f"outside {n}"]) for n in range(3)),
        t(
            "story.beta.fact",
            betas=", ".join(betas),
            inside=", ".join(_grey(numbers[f"inside {n}"]) for n in range(3)),
        ),
    )


def _pairs(piece: Piece, names: Sequence[str]) -> None:
    """Several y, each beside what was changed."""
    cells, numbers, image = [], piece.numbers, label(piece.words["defect"])
    for n, title in enumerate(names):
        y, heat = piece.pictures[f"y {n}"], piece.pictures[f"heat {n}"]
        score = t("story.score_now", ratio=_times(numbers[f"score {n}"]))
        inside, outside = _grey(numbers[f"inside {n}"]), _grey(numbers[f"outside {n}"])
        cells.append(panels.figure(y, title, score, t("alt.normalised", name=image) + ", " + title))
        note = t("story.in_and_out", inside=inside, outside=outside)
        cells.append(panels.figure(heat, "abs(x − y)", note, _changed(image, title)))
    _row(cells)


def _path(piece: Piece) -> None:
    numbers = piece.numbers
    left, right = st.columns([1.5, 1], gap="large", vertical_alignment="center")
    with left:
        _key(
            {t("chart.normals"): figures.NORMAL, t("chart.anomalies"): figures.ABNORMAL}
            | {"F(G(x))": figures.TRAILS[0], "C": figures.LINES[2]}
        )
        _chart(_large(_path_figure(piece), 480), "story_path", t("story.path.alt"))
    with right:
        _row(_three(piece)[:2])
    before, after, steps = _times(numbers["before"]), _times(numbers["after"]), int(numbers["steps"])
    if np.isnan(numbers["satisfied"]):
        _fact(after, t("story.path.never", steps=steps, before=before))
    else:
        said = t("story.path.fact", steps=steps, before=before, after=after)
        _fact(str(int(numbers["satisfied"])), said)


def _path_figure(piece: Piece) -> go.Figure:
    """F(G(x)) step by step, in the plane that the page Explore draws as well."""
    figure, path, series = go.Figure(), piece.series["way"], piece.series

    def points(at: np.ndarray, name: str, **marker: object) -> None:
        figure.add_scatter(
            x=np.round(at[:, 0], 4), y=np.round(at[:, 1], 4), mode="markers", name=name, marker=marker
        )

    if "anomalous" in series:
        points(series["anomalous"], t("chart.anomalies"), color=figures.ABNORMAL, size=9, opacity=0.55)
    if len(series["normal"]):
        points(series["normal"], t("chart.normals"), color=figures.NORMAL, size=9, opacity=0.55)
    figure.add_scatter(
        x=np.round(path[:, 0], 4),
        y=np.round(path[:, 1], 4),
        mode="lines+markers",
        name="F(G(x))",
        line={"color": figures.TRAILS[0], "width": 4},
        marker={"color": figures.TRAILS[0], "size": [18, *[12] * (len(path) - 1)]}
        | {"symbol": ["circle", *["arrow"] * (len(path) - 1)], "angleref": "previous"},
    )
    points(
        series["center"][None],
        "C",
        color=figures.LINES[2],
        size=22,
        symbol="x",
        line={"color": "#fff", "width": 1.5},
    )
    shown = np.concatenate(
        [path, series["center"][None], *([series["normal"]] if len(series["normal"]) else [])]
    )
    low, high = shown.min(axis=0), shown.max(axis=0)
    room = 0.06 * max(float((high - low).max()), 1e-3)
    figure.update_xaxes(range=[low[0] - room, high[0] + room], showticklabels=False, zeroline=False)
    figure.update_yaxes(range=[low[1] - room, high[1] + room], showticklabels=False, zeroline=False)
    figure.update_layout(margin={"l": 4, "r": 4, "t": 8, "b": 4})
    return figure


def _many(piece: Piece) -> None:
    numbers = piece.numbers
    count = sum(key.startswith("steps ") for key in numbers)
    steps = [int(numbers[f"steps {n}"]) for n in range(count)]
    _pairs(piece, [t("story.many.steps", n=n) for n in steps])
    last = count - 1
    _fact(
        f"{_times(numbers['score 0'])} → {_times(numbers[f'score {last}'])}",
        t(
            "story.many.fact",
            first=steps[0],
            last=steps[last],
            was=_grey(numbers["inside 0"]),
            now=_grey(numbers[f"inside {last}"]),
        ),
    )


def _anogan(piece: Piece) -> None:
    pictures, numbers, name = piece.pictures, piece.numbers, label(piece.words["defect"])
    rival, ours = label("anogan"), t("method.ano_unet")
    spent = {key: t("panel.seconds", n=f"{numbers[f'seconds {key}']:.1f}") for key in ("ours", "anogan")}
    _row(
        [
            _original(piece),
            panels.figure(pictures["y ours"], ours, spent["ours"], t("alt.normalised", name=name)),
            panels.figure(pictures["heat ours"], "abs(x − y)", ours, _changed(name)),
            panels.figure(
                pictures["y anogan"], rival, spent["anogan"], t("alt.generated", rival=rival, name=name)
            ),
            panels.figure(
                pictures["heat anogan"], "abs(x − y)", rival, t("story.anogan.alt", rival=rival, name=name)
            ),
        ]
    )
    _fact(
        f"{numbers['seconds ours']:.1f} s · {numbers['seconds anogan']:.1f} s",
        t(
            "story.anogan.fact",
            steps=int(numbers["steps"]),
            search=int(numbers["search"]),
            ours=f"{numbers['auroc ours']:.2f}",
            rival=f"{numbers['auroc anogan']:.2f}",
            article=f"{SPEED['article']:.0f}",
        ),
    )


def _local(piece: Piece) -> None:
    pictures, numbers = piece.pictures, piece.numbers
    _row(
        [
            _original(piece),
            panels.figure(
                pictures["pooled"], t("story.local.pooled"), "abs(x − y)", t("story.local.alt_pooled")
            ),
            panels.figure(
                pictures["distance"], t("story.local.patches"), "d(x)", t("story.local.alt_patches")
            ),
        ],
        kind="au-low",
    )
    _fact(
        f"{numbers['ap pooled']:.2f} → {numbers['ap distance']:.2f}",
        t(
            "story.local.fact",
            area=f"{numbers['area']:.1f}",
            n=int(numbers["images"]),
            pooled=int(numbers["found pooled"]),
            patches=int(numbers["found distance"]),
        ),
    )
    _fact(f"{SCRATCHES[0]:.3f} → {SCRATCHES[1]:.3f}", t("story.local.star"), live=False)


def _instant(piece: Piece) -> None:
    name, numbers = label(piece.words["defect"]), piece.numbers
    left, right = st.columns([1.7, 1], gap="large", vertical_alignment="center")
    with left:
        _row(
            [
                panels.figure(
                    piece.pictures["x"],
                    t("story.image"),
                    t("story.defective", name=name),
                    t("alt.original", name=name),
                ),
                panels.figure(
                    piece.pictures["y"], "y = G(x)", t("story.instant.pass"), t("alt.normalised", name=name)
                ),
                panels.figure(
                    piece.pictures["heat"],
                    t("story.where"),
                    label("map.combined"),
                    t("story.instant.alt", name=name),
                ),
            ]
        )
    with right:
        st.html(_bars())
    _fact(f"{FASTER['anogan']:,}× · {FASTER['article']:,}×", t("story.instant.faster"), live=False)
    (ours, nearest), (ours_star, nearest_star) = FOUND["textures"], FOUND["star"]
    _fact(
        f"{ours:.3f} · {nearest:.3f}",
        t("story.instant.found", ours=f"{ours_star:.3f}", nearest=f"{nearest_star:.3f}"),
        live=False,
    )
    _fact(
        f"{1000 * numbers['seconds']:.0f} ms",
        t("story.instant.fact", n=work.PASSES, auroc=f"{numbers['auroc']:.3f}"),
    )


def _bars() -> str:
    """Seconds an image of three methods on a logarithmic scale, from a millisecond on."""
    names = {
        "article": t("story.instant.article"),
        "anogan": label("anogan"),
        "instant": t("story.instant.ours"),
    }
    most = np.log10(1000 * SPEED["article"])
    rows = []
    for method, seconds in SPEED.items():
        kind = "" if method == "instant" else ' class="au-other"'
        share = 72 * np.log10(1000 * seconds) / most
        rows.append(
            f"<dt>{html.escape(names[method])}</dt>"
            f'<dd{kind}><i style="width:{share:.1f}%"></i>{seconds:g} s</dd>'
        )
    return f'<dl class="au-bars">{"".join(rows)}<p>{html.escape(t("story.instant.scale"))}</p></dl>'


SLIDES: tuple[Slide, ...] = (
    Slide("question", lambda: t("story.question.title"), lambda: t("story.question.lead"), _question),
    Slide("score", lambda: t("story.score.title"), lambda: t("story.score.lead"), _score),
    Slide("mean", lambda: t("story.mean.title"), lambda: t("story.mean.lead"), _mean),
    Slide("objective", lambda: t("story.objective.title"), lambda: t("story.objective.lead"), _objective),
    Slide("residual", lambda: t("story.residual.title"), lambda: t("story.residual.lead"), _residual),
    Slide("centering", lambda: t("story.centering.title"), lambda: t("story.centering.lead"), _centering),
    Slide("beta", lambda: t("story.beta.title"), lambda: t("story.beta.lead"), _beta),
    Slide("path", lambda: t("story.path.title"), lambda: t("story.path.lead"), _path),
    Slide("many", lambda: t("story.many.title"), lambda: t("story.many.lead"), _many),
    Slide("anogan", lambda: t("story.anogan.title"), lambda: t("story.anogan.lead"), _anogan),
    Slide("local", lambda: t("story.local.title"), lambda: t("story.local.lead"), _local),
    Slide("instant", lambda: t("story.instant.title"), lambda: t("story.instant.lead"), _instant),
)
