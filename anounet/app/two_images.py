"""The page for two images: references and images that were chosen, the two swapped, and what came out."""

from __future__ import annotations

from itertools import count

import streamlit as st

from anounet import difference
from anounet.app import cards, components, downloads, figures, inputs, models, panels, uploads, viewer
from anounet.app.jobs import Job, job_id
from anounet.app.texts import label, plain, t
from anounet.app.work import differences
from anounet.app.work.answers import Picture
from anounet.app.work.differences import Request
from anounet.bundle import Bundle
from anounet.datasets import textures
from anounet.difference import MOST, PLACES
from anounet.images import content_hash, to_pixels
from anounet.visualization import Result

KIND = "differ"
PATIENCE = 2.0  # seconds to wait before a progress bar appears
PAIRS = ("other", "same")  # pieces of a texture: different ones, or one without and with its defect
FIRST = "leather"
SWAP = "swap"
REFERENCES, IMAGES = "ref_", "img_"  # prefixes of the uploads in the session


def choose_place() -> str:
    return inputs.choose_one(
        t("differ.place"), "place", PLACES, lambda place: label(f"place.{place}"), help=t("differ.place_help")
    )


def swap_button(source: str) -> None:
    st.button(
        t("differ.swap"),
        key="swap_sides",
        icon=":material/swap_horiz:",
        on_click=_swap_uploads if source == "upload" else _swap_samples,
        help=t("differ.swap_help"),
    )


def _swap_samples() -> None:
    if st.query_params.get(SWAP):
        del st.query_params[SWAP]
    else:
        st.query_params[SWAP] = "true"


def _swap_uploads() -> None:
    left, right = (st.session_state.get(f"_{prefix}uploads") for prefix in (REFERENCES, IMAGES))
    if left is not None and right is not None:
        left.kept, right.kept = right.kept, left.kept
        left.faults, right.faults = right.faults, left.faults


def choose_pair() -> tuple[str, str]:
    """A texture, and whether the sample is another piece of it than the reference."""
    names = list(textures.TEXTURES)
    inputs.accept_plain("texture", names, label)
    texture = st.selectbox(
        t("differ.texture"),
        names,
        index=names.index(FIRST),
        key="texture",
        bind="query-params",
        format_func=label,
        width=200,
    )
    pair = inputs.choose_one(t("differ.pair"), "pair", PAIRS, lambda name: label(f"pair.{name}"))
    return (texture if texture in names else FIRST), pair


def samples(texture: str, pair: str, size: int) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """A good piece as the reference and a defective one as the image; the other way round when swapped."""
    number = next(n for n in count() if textures.defect_of(texture, "test", n) == inputs.DEFAULT_SAMPLE)
    drawn = {}
    for side, which, defective in (
        ("good", number if pair == "same" else number + 1, False),
        ("defective", number, True),
    ):
        pixels, _, defect = textures.sample(texture, "test", which, size=size, defective=defective)
        name = f"{label(texture)}, {label(defect or 'good')}"
        drawn[side] = (Picture(name, content_hash(pixels), pixels),)
    if st.query_params.get(SWAP):
        return drawn["defective"], drawn["good"]
    return drawn["good"], drawn["defective"]


def uploaded(prefix: str, size: int, restored: tuple[Picture, ...]) -> tuple[Picture, ...]:
    """One side's uploads so far, with a sentence for each that was refused."""
    handed_in = uploads.collect(
        prefix,
        size,
        MOST,
        caption=t("images.drop"),
        help=t("images.limits"),
        pasting=prefix == IMAGES,
        restored=restored,
    )
    for fault in handed_in.faults:
        st.warning(plain(fault), icon=":material/broken_image:")
    uploads.show(handed_in, prefix)
    return handed_in.pictures


def show_pictures(pictures: tuple[Picture, ...]) -> None:
    cells = [panels.figure(p.pixels, p.name, alt=t("alt.original", name=p.name)) for p in pictures]
    st.html(panels.grid(cells, "au-live"))


def choose_view() -> panels.View:
    """How maps are shown: nothing is computed anew for it."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="view"):
        threshold = inputs.choose_one(
            t("view.threshold"),
            "level",
            panels.THRESHOLDS,
            inputs.threshold_label,
            help=t("differ.threshold_help"),
        )
        colormap = inputs.choose_colormap()
        usual = round(100 * panels.OPACITY)
        opacity = st.slider(
            t("view.opacity"), 0, 100, usual, 5, "%d %%", key="opacity", bind="query-params", width=220
        )
    opacity = inputs.clamp(opacity, 0, 100, usual) / 100
    return panels.View("distance", threshold, colormap=colormap, opacity=opacity)


def run(request: Request, bundle: Bundle) -> Job:
    """The comparison's job, remembered by the link; a finished one where all its results are there."""
    cache, jobs = models.results(), models.jobs()
    title = t("differ.job", n=len(request.pictures))
    job = jobs.get(job_id(request.key))
    if len(differences.found(cache, request, whole=True)) == len(request.pictures):
        job = jobs.note(request.key, KIND, title, spec=request)
        components.remember(job)
        return job
    if job is not None and not job.active:
        components.job_end(job)
        if job.faults or not st.button(t("visualise.again"), key="start", icon=":material/play_arrow:"):
            return job
    if job is not None and job.active and job.cancelled:
        return job  # stopped, and not yet at its end: submitted now, it would begin anew
    job = jobs.submit(
        request.key,
        KIND,
        title,
        lambda j: differences.compare(j, request, bundle, cache),
        spec=request,
        owner=components.owner(),
        personal=True,
    )
    components.remember(job)
    job.wait(PATIENCE, milestones=1 + len(request.pictures))
    return job


def show(request: Request, view: panels.View, job: Job) -> None:
    results = differences.found(models.results(), request)
    for name, fault in job.faults.items():
        st.warning(f"{plain(name)}: {fault}", icon=":material/error:")
    shown = [downloads.Shown(p.name, results[p.key]) for p in request.pictures if p.key in results]
    if len(shown) > 1 and not job.active:
        st.download_button(
            t("download.zip"),
            lambda: downloads.zip_bytes(shown, view, request.facts),
            "ano-unet.zip",
            key="get_zip",
            on_click="ignore",
            icon=":material/folder_zip:",
        )
    for number, picture in enumerate(request.pictures):
        if picture.key in results:
            _card(picture, results[picture.key], request, view, number)


def _card(picture: Picture, result: Result, request: Request, view: panels.View, number: int) -> None:
    with st.container(border=True, key=f"card_{number}"):
        st.markdown(f"**{plain(picture.name)}** · {_told(result, view)}")
        seconds = t("differ.seconds", n=f"{result.seconds:.1f}", device=models.device_name())
        st.caption(seconds + (f" · {picture.note}" if picture.note else ""))
        look, read = st.columns(2, gap="medium")
        with look:
            if _redrawn(result):
                viewer.show(picture.name, [result], view, f"viewer_{number}", t("differ.redrawn"))
        with read:
            cards.region_table(result, view, number)
        st.html(panels.grid(_cells(picture.name, result, view)) + _bar(view))
        with st.expander(t("card.more"), icon=":material/show_chart:"):
            if _redrawn(result):
                lines = {name: list(line) for name, line in result.losses.items()}
                figure = figures.losses(lines, difference.SETTINGS.beta)
                st.plotly_chart(figure, key=f"losses_{number}", config=figures.CONFIG, alt=t("alt.losses"))
            cards.file_buttons(picture, result, view, number, request.facts)


def _redrawn(result: Result) -> bool:
    """Whether it is the whole answer, and not the map alone, which comes first."""
    return len(result.losses["L"]) > 1


def _told(result: Result, view: panels.View) -> str:
    """Where it is unlike; what that means is for people to say."""
    places = panels.shown_regions(result, view) if view.threshold != "off" else result.regions()
    if not places:
        return t("differ.like")
    x, y = f"{places[0].x:.0f}", f"{places[0].y:.0f}"
    return t("differ.one", x=x, y=y) if len(places) == 1 else t("differ.unlike", n=len(places), x=x, y=y)


def _cells(name: str, result: Result, view: panels.View) -> list[str]:
    """Original, the image redrawn, heat map, overlay."""
    level, marks = panels.strongest(result, view), panels.region_marks(result, view)
    return [
        panels.figure(to_pixels(result.x), t("panel.original"), name, t("alt.original", name=name)),
        panels.figure(
            to_pixels(result.y),
            t("differ.redrawn"),
            t("method.ano_unet"),
            t("differ.alt_redrawn", name=name),
        )
        if _redrawn(result)
        else panels.waiting(t("differ.redrawn"), t("differ.redrawing")),
        panels.figure(
            panels.heat_pixels(result, view),
            t("panel.heat"),
            t("differ.heat_note", level=level),
            t("differ.alt_heat", name=name, level=level),
            marks,
        ),
        panels.figure(
            panels.overlay_pixels(result, view),
            t("panel.overlay"),
            label("map.distance"),
            t("alt.overlay", name=name),
            marks,
        ),
    ]


def _bar(view: panels.View) -> str:
    words = t("differ.scale")
    if view.threshold != "off":
        words += " " + (t("scale.line_limit") if view.threshold == "limit" else t("scale.line_scale"))
    bar = panels.scale_bar(view, ("0", t("differ.scale_one"), f"{panels.TOP:g}+"), words)
    return f'<div class="au-flat">{bar}</div>'
