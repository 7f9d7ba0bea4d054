"""The pieces of the page Explore: an image and settings in; feature space, or a grid of β × steps, out."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from PIL import Image

from anounet import ano_unet
from anounet.anomaly_map import colorize, draw_contours
from anounet.app import components, figures, inputs, models, panels, routing
from anounet.app.jobs import Job, job_id
from anounet.app.texts import again, label, plain, t
from anounet.app.work import exploring as work
from anounet.app.work.answers import Picture
from anounet.bundle import SHIPPED, Bundle
from anounet.datasets import DataError
from anounet.explore import Cell, Cloud, GridSettings, Trail, columns, matrix
from anounet.images import ImageError, to_pixels

SPACE, GRID = "trail", "grid"  # the kinds of jobs
SECTIONS = ("space", "grid")
PATIENCE = 1.5  # seconds to wait before a progress bar appears
FACTORS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the bundle's own β: on offer
USUAL_FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
MOST_STEPS = {"fast": ("20", "40", "80", "160", "320"), "article": ("50", "100", "200", "400")}
USUAL_STEPS = {"fast": "80", "article": "200"}
THUMB = 112  # pixels: the side of a cell's pictures at most
GREY = 255


def section_label(name: str) -> str:
    return label(f"section.{name}")


def usable(bundle: Bundle, section: str) -> bool:
    """Whether the bundle has what a section needs; says what is missing, and where it is made."""
    if bundle.center is None:
        st.info(t("explore.no_center", name=bundle.name), icon=":material/adjust:")
        routing.link("center", t("home.go_center"), bundle=bundle.name)
        return False
    if bundle.identity is None and section == "space":
        st.info(t("explore.no_identity", name=bundle.name, shipped=SHIPPED), icon=":material/inventory_2:")
        return False
    return True


# --- what is asked for -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The test image, what it is called, a normal one beside it, and where it is known to be defective."""

    name: str
    picture: Picture
    normal: tuple[str, Picture] | None = None
    mask: np.ndarray | None = None


def choose_image(bundle: Bundle, restored: Sequence[Picture] = ()) -> Chosen | None:
    """One sample or upload, kept in the link; None, with a sentence, where none was chosen."""
    source = inputs.choose_source()
    page = int(inputs.clamp(st.query_params.get("piece"), 0, 10_000, 0))
    try:
        found = inputs.sample_pictures(bundle, page)
    except DataError as error:
        found = {}
        if source == "samples":
            st.info(t("images.no_samples", reason=plain(str(error))), icon=":material/folder_off:")
            return None
    fine = [known for known in found if label(known).startswith(label("good"))]
    if source == "upload":
        given = {p.name: p for p in inputs.uploaded(bundle.size, tuple(restored))}
        if not given:
            st.info(t("visualise.nothing"), icon=":material/add_photo_alternate:")
            return None
        name = pick(t("explore.image"), "upload_image", list(given), next(iter(given)), plain, bind=False)
        return Chosen(name, given[name], (label(fine[0]), found[fine[0]]) if fine else None)
    st.html(
        panels.grid(
            [
                panels.figure(picture.pixels, label(known), alt=t("alt.original", name=label(known)))
                for known, picture in found.items()
            ],
            "au-small",
        )
    )
    first = inputs.DEFAULT_SAMPLE if inputs.DEFAULT_SAMPLE in found else next(iter(found))
    inputs.accept_plain("image", list(found), label)
    known = pick(t("explore.image"), "image", list(found), first, label)
    st.button(
        t("images.others"),
        key="other_pieces",
        icon=":material/shuffle:",
        on_click=lambda: st.query_params.update({"piece": str(page + 1)}),
    )
    picture, others = found[known], [name for name in fine if name != known]
    normal = (label(others[0]), found[others[0]]) if others else None
    return Chosen(label(known), picture, normal, models.known_mask(models.choice(bundle), picture.name))


def pick(
    caption: str,
    key: str,
    options: Sequence[str],
    default: str,
    shown: Callable[[str], str] = str,
    *,
    bind: bool = True,
) -> str:
    """One of some options that may change from run to run, kept in the link while it is one of them."""
    _forget_unknown(key, options, shown)
    chosen = st.pills(
        caption,
        list(options),
        default=default,
        required=True,
        format_func=shown,
        key=key,
        bind="query-params" if bind else None,
        wrap=True,
    )
    return chosen if chosen in options else default


def _forget_unknown(key: str, options: Sequence[str], shown: Callable[[str], str] = str) -> None:
    kept = st.session_state.get(key)
    if kept is not None and not set([kept] if isinstance(kept, str) else kept) <= set(options):
        del st.session_state[key]
    known = {*options, *map(shown, options)}
    if not set(st.query_params.get_all(key)) <= known:
        del st.query_params[key]


def path_settings(bundle: Bundle) -> ano_unet.Settings:
    """β and steps of `fast` mode with the article's C, the bundle's own at first."""
    own = bundle.settings("fast", center="global")
    if st.session_state.get("_paths_of", bundle.name) != bundle.name:
        st.session_state["path_beta"], st.session_state["path_steps"] = float(own.beta), int(own.steps)
    st.session_state["_paths_of"] = bundle.name
    left, right = st.columns(2)
    with left:
        beta = inputs.bound_number(
            t("settings.beta"),
            "path_beta",
            0.0,
            inputs.BETA_TOP,
            float(own.beta),
            5.0,
            t("settings.beta_help"),
        )
    with right:
        steps = inputs.bound_number(
            t("settings.steps"), "path_steps", 1, 200, int(own.steps), 5, t("settings.steps_help")
        )
    return bundle.settings("fast", center="global", beta=beta, steps=int(steps))


def grid_settings(bundle: Bundle) -> GridSettings:
    """The method, the values of β around the bundle's own, and up to how many steps."""
    methods = ["fast", "fast-local", "article"] if bundle.local is not None else ["fast", "article"]
    if bundle.identity is None:
        methods = ["article"]
        st.caption(t("explore.only_article"))
    method = inputs.choose_one(t("grid.method"), "method", methods, label, help=t("grid.method_help"))
    mode = method.partition("-")[0]
    base = bundle.settings(mode, center="local" if method == "fast-local" else "global")
    values = {f"{beta:g}": beta for beta in _around(base.beta, FACTORS)}
    usual = [f"{beta:g}" for beta in _around(base.beta, USUAL_FACTORS)]
    key = f"betas_{method}"
    _forget_unknown(key, list(values))
    asked = st.pills(
        t("grid.betas"),
        list(values),
        selection_mode="multi",
        default=usual,
        key=key,
        bind="query-params",
        help=t("grid.betas_help", own=f"{base.beta:g}"),
        wrap=True,
    )
    betas = tuple(values[name] for name in values if name in asked)
    if not betas:
        st.caption(t("grid.betas_none", own=f"{base.beta:g}"))
        betas = (base.beta,)
    most = pick(t("grid.most"), f"most_{mode}", MOST_STEPS[mode], USUAL_STEPS[mode])
    return GridSettings(base, betas, columns(int(most)))


def _around(beta: float, factors: Sequence[float]) -> list[float]:
    """Multiples of β to three digits, ascending, none twice."""
    return sorted({min(float(f"{beta * factor:.3g}"), ano_unet.MAX_BETA) for factor in factors})


def start(
    kind: str,
    request: work.TrailRequest | work.GridRequest,
    title: str,
    do: Callable[[Job], None],
    seconds: float,
    *,
    ask: bool = False,
) -> Job | None:
    """Computes what is missing, by a job; long work (`ask`) and what was stopped waits for a click."""
    jobs = models.jobs()
    job = jobs.get(job_id(request.key))
    if not request.missing(models.explored()):
        return job
    active = job is not None and job.active
    if not active and (ask or job is not None):
        components.job_end(job)
        words = t("visualise.again") if job else t("explore.start", time=components.duration(seconds))
        if not st.button(words, key=f"start_{kind}", type="primary", icon=":material/play_arrow:"):
            return job
    if active and job.cancelled:
        return job  # stopped, and not yet at its end: submitted now, it would begin anew
    # Submitted again, an active job only gets another owner.
    job = jobs.submit(
        request.key,
        kind,
        title,
        do,
        spec=request,
        owner=components.owner(),
        bundles=(request.bundle,),
        personal=not ask,
    )
    components.remember(job)
    if not active and ask:
        st.rerun()  # without the button
    if not active:
        job.wait(PATIENCE, milestones=len(request.pictures))
    return job


def show_job(job: Job | None) -> None:
    if job is not None:
        components.job_box(job, curves=False)
        for name, fault in job.faults.items():
            st.warning(f"{plain(again(name))}: {plain(fault)}", icon=":material/error:")


# --- feature space -----------------------------------------------------------------------------------


def show_space(chosen: Chosen, bundle: Bundle, version: str, request: work.TrailRequest) -> None:
    """The sentences, the picture of feature space, the scores along the paths, and what came out."""
    cache, names = models.explored(), [chosen.name, *([chosen.normal[0]] if chosen.normal else [])]
    found = {n: cache.get(request.kept_as(p)) for n, p in zip(names, request.pictures, strict=True)}
    trails = {name: trail for name, trail in found.items() if trail is not None}
    _how_far(chosen, trails, bundle)
    try:
        with st.spinner(t("explore.reading")):
            cloud = models.feature_cloud(bundle.name, version)
    except (DataError, ImageError, ValueError) as error:
        st.info(t("space.no_cloud", reason=plain(str(error))), icon=":material/folder_off:")
    else:
        _draw_space(cloud, trails)
    if not trails:
        return
    listed = ", ".join(trails)
    st.markdown(t("space.score", what=label(f"score.{bundle.center.metric}")))
    figure = figures.trail_scores(trails, bundle.center.threshold, t("chart.score"))
    st.plotly_chart(
        figure, key="trail_scores", config=figures.CONFIG, alt=t("alt.trail_scores", names=listed)
    )
    cells = []
    for (name, trail), picture in zip(found.items(), request.pictures, strict=True):
        cells.append(
            panels.figure(picture.pixels, t("space.original", name=name), alt=t("alt.original", name=name))
        )
        if trail is not None:
            title = t("space.redrawn", n=len(trail.scores) - 1)
            cells.append(panels.figure(to_pixels(trail.y), title, alt=t("alt.normalised", name=name)))
    st.html(panels.grid(cells))


def _how_far(chosen: Chosen, trails: Mapping[str, Trail], bundle: Bundle) -> None:
    """What was computed, in sentences."""
    limit, trail = bundle.center.threshold, trails.get(chosen.name)
    if trail is not None:
        said = [
            t(
                "space.travelled",
                name=plain(chosen.name),
                far=f"{trail.travelled:.4f}",
                ratio=f"{trail.travelled / max(limit, 1e-9):.2f}",
                before=f"{trail.scores[0]:.4f}",
                after=f"{trail.scores[-1]:.4f}",
                threshold=f"{limit:.4f}",
            )
        ]
        after = trail.satisfied_after(limit)
        if after is None:
            said.append(t("space.never"))
        else:
            said.append(t("space.after", n=after) if after else t("space.at_once"))
        normal = trails.get(chosen.normal[0]) if chosen.normal else None
        if normal is not None:
            name, far = plain(chosen.normal[0]), f"{normal.travelled:.4f}"
            if trail.travelled >= normal.travelled:
                ratio = f"{trail.travelled / max(normal.travelled, 1e-9):.1f}"
                said.append(t("space.farther", name=name, far=far, ratio=ratio))
            else:
                ratio = f"{normal.travelled / max(trail.travelled, 1e-9):.1f}"
                said.append(t("space.nearer", name=name, far=far, ratio=ratio))
        st.markdown(" ".join(said))
    if chosen.normal is None:
        st.caption(t("space.no_normal"))


def _draw_space(cloud: Cloud, trails: Mapping[str, Trail]) -> None:
    x, y = (f"{share:.0%}" for share in cloud.plane.explained)
    what = t("space.with_references") if len(cloud.reference.at) else t("space.normals_only")
    listed = ", ".join(trails) or "–"
    whole, near = st.columns(2)
    with whole:
        st.markdown(t("space.whole"))
        st.plotly_chart(
            figures.feature_space(cloud, trails),
            key="space",
            config=figures.CONFIG,
            alt=t("alt.space", names=listed),
        )
    if trails:
        with near:
            st.markdown(t("space.near"))
            st.plotly_chart(
                figures.feature_space(cloud, trails, near=True),
                key="space_near",
                config=figures.CONFIG,
                alt=t("alt.space_near", names=listed),
            )
    st.caption(t("space.what", what=what, x=x, y=y))
    low, high = cloud.normal.at.min(axis=0), cloud.normal.at.max(axis=0)
    if ((cloud.center < low) | (cloud.center > high)).any():
        st.caption(t("space.outside"))
    for reason in cloud.left_out:
        st.caption(t("space.missing", reason=plain(reason)))


# --- steps and β -------------------------------------------------------------------------------------


def show_grid(chosen: Chosen, bundle: Bundle, version: str, request: work.GridRequest) -> None:
    """All cells, one of them enlarged with its numbers, and three matrices of numbers."""
    settings, cells = request.settings, request.cells(models.explored())
    if not cells:
        return
    before = models.seen_before(bundle.name, version, chosen.picture.key, chosen.picture.pixels)
    _summary(cells, masked=chosen.mask is not None and bool(chosen.mask.any()))
    pictures, enlarged = st.container(), st.container()
    with enlarged:
        at = _pick_cell(settings)
    with pictures:
        st.html(_table(cells, settings, bundle, at))
        st.caption(t("grid.pictures", method=label(settings.base.method)))
    with enlarged:
        cell = next((c for c in cells if (c.beta, c.steps) == at), None)
        if cell is None:
            st.caption(t("grid.not_yet"))
        else:
            _show_cell(cell, chosen, bundle, settings, before)
    _matrices(cells, settings, bundle, at, masked=any(cell.outside is not None for cell in cells))


def _pick_cell(settings: GridSettings) -> tuple[float, int]:
    betas = {f"{beta:g}": beta for beta in settings.betas}
    steps = {str(count): count for count in settings.steps}
    own = settings.base
    with st.container(horizontal=True, key="cell"):
        nearest = min(betas, key=lambda name: abs(betas[name] - own.beta))
        beta = pick(t("grid.pick_beta"), "cell_beta", list(betas), nearest)
        nearest = min(steps, key=lambda name: abs(steps[name] - own.steps))
        count = pick(t("grid.pick_steps"), "cell_steps", list(steps), nearest)
    return betas[beta], steps[count]


def _heat(cell: Cell, settings: GridSettings, bundle: Bundle) -> np.ndarray:
    """On the method's fixed scale."""
    top = panels.TOP * bundle.scale(settings.base.method, "residual")
    return colorize((cell.heat / top).clamp(0, 1).numpy())


def _table(cells: Sequence[Cell], settings: GridSettings, bundle: Bundle, at: tuple[float, int]) -> str:
    """All cells as small pictures, β down and steps across."""
    there = {(cell.beta, cell.steps): cell for cell in cells}
    limit = max(bundle.center.threshold, 1e-9)
    head = "".join(f'<th scope="col">{count}</th>' for count in settings.steps)
    rows = [f'<tr><th aria-label="β">β</th>{head}</tr>']
    for beta in settings.betas:
        row = [f'<th scope="row">{beta:g}</th>']
        for count in settings.steps:
            cell, mark = there.get((beta, count)), ' class="au-chosen"' if (beta, count) == at else ""
            if cell is None:
                row.append(f"<td{mark}><span>{t('grid.waiting')}</span></td>")
                continue
            pair = _thumb(to_pixels(cell.y), t("alt.cell", beta=f"{beta:g}", steps=count))
            heat = _heat(cell, settings, bundle)
            pair += _thumb(heat, t("alt.cell_heat", beta=f"{beta:g}", steps=count))
            score = f"{cell.score / limit:.2f}" + (" ✓" if cell.satisfied else "")
            row.append(f"<td{mark}><div>{pair}</div><span>{score}</span></td>")
        rows.append(f"<tr>{''.join(row)}</tr>")
    return f'<div class="au-table"><table>{"".join(rows)}</table></div>'


def _thumb(pixels: np.ndarray, alt: str) -> str:
    """A small JPEG: there may be a hundred of them on a page."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMB, THUMB))
    image.save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/jpeg;base64,{data}">'


def _show_cell(
    cell: Cell,
    chosen: Chosen,
    bundle: Bundle,
    settings: GridSettings,
    before: tuple[float, float | None],
) -> None:
    """One cell: its pictures, its numbers, and what they say."""
    title = t("grid.title", beta=f"{cell.beta:g}", steps=cell.steps)
    pixels, name = chosen.picture.pixels, chosen.name
    level = float(cell.heat.max()) / bundle.scale(settings.base.method, "residual")
    pictures = [
        panels.figure(pixels, t("panel.original"), name, t("alt.original", name=name)),
        panels.figure(to_pixels(cell.y), t("panel.normalised"), title, t("alt.normalised", name=name)),
        panels.figure(
            _heat(cell, settings, bundle),
            t("panel.heat"),
            t("panel.heat_note", level=f"{level:.1f}"),
            t("alt.heat", name=name, level=f"{level:.1f}"),
        ),
    ]
    if chosen.mask is not None and chosen.mask.any():
        outlined = draw_contours(pixels, chosen.mask.astype(np.float32), 0.5)
        note = t("grid.mask_note")
        pictures.append(panels.figure(outlined, t("grid.mask"), note, t("alt.mask", name=name)))
    st.html(panels.grid(pictures))
    _numbers(cell, bundle, before)
    st.markdown(" ".join(_sentences(cell, bundle, before)))


def _numbers(cell: Cell, bundle: Bundle, before: tuple[float, float | None]) -> None:
    limit = max(bundle.center.threshold, 1e-9)
    with st.container(horizontal=True, key="cell_numbers"):
        st.metric(
            t("grid.m_residual"), f"{cell.losses['L_R']:.4f}", help=t("grid.m_residual_help"), width=130
        )
        st.metric(
            t("grid.m_score"),
            t("grid.times", n=f"{cell.score / limit:.2f}"),
            help=t("grid.m_score_help", before=f"{before[0] / limit:.2f}"),
            width=130,
        )
        if cell.inside is not None:
            st.metric(t("grid.m_inside"), _grey(cell.inside), help=t("grid.m_inside_help"), width=130)
        if cell.outside is not None:
            st.metric(t("grid.m_outside"), _grey(cell.outside), help=t("grid.m_outside_help"), width=130)
        if cell.margin is not None:
            normal = label(str(bundle.info.get("normal", "")))
            said = t("grid.m_margin_help", normal=normal, before=f"{before[1]:.1f}")
            st.metric(t("grid.m_margin"), f"{cell.margin:+.1f}", help=said, width=130)


def _sentences(cell: Cell, bundle: Bundle, before: tuple[float, float | None]) -> list[str]:
    """What a cell's numbers say; nothing that does not follow from them."""
    limit = max(bundle.center.threshold, 1e-9)
    was, now = f"{before[0] / limit:.2f}", f"{cell.score / limit:.2f}"
    if before[0] <= bundle.center.threshold:
        said = [t("grid.f_was", before=was, after=now)]
    elif cell.satisfied:
        said = [t("grid.f_yes", before=was, after=now)]
    else:
        said = [t("grid.f_no", before=was, after=now)]
    if cell.inside is not None and cell.outside is not None:
        said.append(t("grid.changed", inside=_grey(cell.inside), outside=_grey(cell.outside)))
    else:
        said.append(t("grid.changed_all", all=_grey(cell.losses["L_R"])))
    if cell.margin is not None:
        was, now = f"{before[1]:+.1f}", f"{cell.margin:+.1f}"
        if cell.margin > 0:
            said.append(t("grid.judge_yes", before=was, after=now))
        else:
            said.append(t("grid.judge_no", before=was, after=now))
            if cell.satisfied:
                said.append(t("grid.fooled"))
    return said


def _summary(cells: Sequence[Cell], *, masked: bool) -> None:
    """What all cells together say."""
    satisfied = [cell for cell in cells if cell.satisfied]
    said = [t("grid.count", n=len(satisfied), all=len(cells))]
    if satisfied and satisfied[0].margin is not None:
        said.append(t("grid.count_judge", n=sum(cell.margin > 0 for cell in satisfied)))
    if len(satisfied) > 1:
        least, most = (kind(satisfied, key=lambda cell: cell.background) for kind in (min, max))
        if masked:
            said.append(
                t(
                    "grid.least",
                    beta=f"{least.beta:g}",
                    steps=least.steps,
                    least=_grey(least.background),
                    inside=_grey(least.inside),
                    other=f"{most.beta:g}",
                    more=most.steps,
                    most=_grey(most.background),
                    within=_grey(most.inside),
                )
            )
        else:
            said.append(
                t(
                    "grid.least_all",
                    beta=f"{least.beta:g}",
                    steps=least.steps,
                    least=_grey(least.background),
                    other=f"{most.beta:g}",
                    more=most.steps,
                    most=_grey(most.background),
                )
            )
    st.markdown(" ".join(said))


def _grey(change: float) -> str:
    """A mean change in grey levels of 255."""
    return f"{GREY * change:.1f}"


def _matrices(
    cells: Sequence[Cell], settings: GridSettings, bundle: Bundle, at: tuple[float, int], *, masked: bool
) -> None:
    """F's score, the change where nothing is wrong, and what the second classifier says."""
    limit = max(bundle.center.threshold, 1e-9)
    scores, changes = matrix(cells, settings, "score") / limit, GREY * matrix(cells, settings, "background")
    margins = matrix(cells, settings, "margin")
    shown = [
        ("score", t("grid.matrix_score"), scores, {"middle": 1.0, "top": 2.0, "digits": 2}),
        ("change", t("grid.matrix_outside") if masked else t("grid.matrix_all"), changes, {}),
    ]
    if np.isfinite(margins).any():
        shown.append(("margin", t("grid.matrix_margin"), margins, {"middle": 0.0, "upside_down": True}))
    for column, (name, title, values, how) in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            st.markdown(title)
            st.plotly_chart(
                figures.beta_steps(values, settings.betas, settings.steps, at, **how),
                key=f"matrix_{name}",
                config=figures.CONFIG,
                alt=t("alt.beta_steps", what=title.replace("*", "")),
            )
    if not np.isfinite(margins).any():
        st.caption(t("grid.no_judge", name=bundle.name))
