"""How an experiment is shown: what is kept of it, its tables, its figure, and a run of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from anounet.app import components, models, panels
from anounet.app.inputs import clamp
from anounet.app.jobs import Job, job_id
from anounet.app.texts import DEFAULT_LANGUAGE, label, language, plain, t
from anounet.app.work.experimenting import (
    BY_PAGE,
    ExperimentRequest,
    estimated_seconds,
    run_experiment,
)
from anounet.bundle import Bundle, bundle_folder, bundle_names
from anounet.experiments import (
    FILE,
    MIN_IMAGES,
    PICTURE,
    TITLES,
    VARIANTS,
    Experiment,
    ExperimentSettings,
    FigureRow,
    Outcome,
    Report,
    draw_figure,
    findings,
    judged_rows,
    listed,
    method_rows,
    outdated,
    saved_report,
    what_was_found,
)
from anounet.images import png_bytes
from anounet.presets import PRESETS
from anounet.storage import WeightsError

FIGURE, RUN = "experiment_figure", "experiment_run"  # the kinds of jobs
MOST_IMAGES, MOST_ARTICLE, MOST_ANOGAN = 1000, 50, 200  # of each kind that a visitor can ask for
PATIENCE = 1.5  # seconds to wait before a progress bar appears


def experiment_names() -> list[str]:
    """The presets, and the bundles beside which another experiment's numbers are kept."""
    known = {*PRESETS, *(f"{name}-{variant}" for name in PRESETS for variant in VARIANTS)}
    own = [n for n in bundle_names() if n not in known and (bundle_folder(n) / FILE).is_file()]
    return [*PRESETS, *own]


def first_that_is_here(names: Sequence[str]) -> int:
    """The place of the first experiment that has a bundle; 0 where none has."""
    there = set(bundle_names())
    return next((place for place, name in enumerate(names) if name in there), 0)


def experiment_title(name: str) -> str:
    return label(f"preset.{name}") if name in PRESETS else label(name)


def variant_label(variant: str) -> str:
    return label(f"variant.{variant}")


def kept_report(bundle: str) -> Report | None:
    """What is kept beside a bundle; None, with a sentence where it is damaged."""
    try:
        return saved_report(bundle)
    except WeightsError as error:
        st.error(plain(str(error)), icon=":material/broken_image:")
        return None


def show_report(report: Report, key: str) -> None:
    """What was found, by whom the figures were made, and the tables."""
    made = t("experiments.by_page") if report.command == BY_PAGE else f"`{report.command}`"
    st.caption(
        t(
            "experiments.made",
            date=report.made[:10],
            made=made,
            images=f"{report.normals} + {report.anomalies}",
            device=plain(report.device),
        )
    )
    if outdated(report):
        st.warning(t("experiments.outdated", name=report.bundle), icon=":material/history:")
    st.markdown(plain(_told(report)))
    _table(method_rows(report), f"{key}_methods")
    changed = judged_rows(report)
    if changed:
        judged = report.judge is not None
        st.markdown(t("experiments.judged") if judged else t("experiments.changed"))
        _table(changed, f"{key}_changed")
    for note in report.notes:
        st.caption(plain(note))


def _told(report: Report) -> str:
    """`findings` in the visitor's language."""
    if language() == DEFAULT_LANGUAGE:
        return findings(report)
    told = []
    for said in what_was_found(report):
        names = {
            name: label(called) if isinstance(called, str) else listed([label(one) for one in called])
            for name, called in said.names.items()
        }
        if "split" in names:
            names["split"] = label(f"split.{said.names['split']}")
        told.append(label(f"said.{said.key}").format(**said.values, **names))
    return "".join(told)


def _table(rows: Sequence[dict[str, Any]], key: str) -> None:
    shown = [
        {label(name): label(str(value)) if name == "method" else value or "–" for name, value in row.items()}
        for row in rows
    ]
    pinned = {label("method"): st.column_config.TextColumn(pinned=True)}
    st.dataframe(
        shown, hide_index=True, width="stretch", height="content", column_config=pinned, key=f"table_{key}"
    )


def show_kept_figure(report: Report) -> None:
    """The figure that is kept beside a bundle, where its images may be shown."""
    path = bundle_folder(report.bundle) / PICTURE
    if path.is_file():
        with st.expander(t("experiments.whole_figure"), icon=":material/image:"):
            st.image(str(path), width="stretch")


def show_figure(rows: Sequence[FigureRow], name: str, key: str) -> None:
    """The figure image by image, so that it can be seen on a phone too; and all of it as a file."""
    places = list(range(len(rows)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        place = st.pills(
            t("experiments.pick"),
            places,
            default=0,
            required=True,
            format_func=lambda place: _pick(rows[place]),
            key=f"pick_{key}",
            wrap=True,
        )
        st.download_button(
            t("experiments.download"),
            lambda: png_bytes(draw_figure(rows)),
            f"{name}.png",
            key=f"figure_{key}",
            on_click="ignore",
            icon=":material/download:",
        )
    row = rows[place if place in places else 0]
    st.html(panels.grid(_cells(row)))
    st.caption(t("experiments.scale"))


def _pick(row: FigureRow) -> str:
    return t("experiments.pick_one", kind=label(f"kind.{row.shown.kind}"), n=row.shown.percentile)


def _cells(row: FigureRow) -> list[str]:
    """The original and the distance map, and then of each method its redrawn image and its map."""
    shown = row.shown
    what = t("experiments.original_note", what=label(shown.what), score=f"{shown.score:.4f}")
    cells = [panels.figure(row.original, t("panel.original"), what, t("alt.original", name=shown.name))]
    # A method that redraws nothing comes first: the others are in pairs then, at any width.
    methods = [method for method in TITLES if method in row.drawn]
    for method in sorted(methods, key=lambda m: row.drawn[m].normalised is not None):
        drawn, who, peak = row.drawn[method], label(TITLES[method]), f"{row.drawn[method].peak:.1f}"
        if drawn.normalised is not None:
            alt = t("experiments.alt_normalised", method=who, name=shown.name)
            cells.append(panels.figure(drawn.normalised, who, t("panel.normalised"), alt))
        alt = t("experiments.alt_map", method=who, name=shown.name, level=peak)
        title = t("panel.heat") if drawn.normalised is not None else who
        cells.append(panels.figure(drawn.heat, title, t("panel.heat_note", level=peak), alt))
    return cells


def problem(error: BaseException) -> None:
    """What is missing for an experiment, in one sentence."""
    st.info(components.sentence(error), icon=":material/info:")


# --- computed now ------------------------------------------------------------------------------------


def experiment_figure(
    chosen: Experiment, bundle: Bundle, version: str, report: Report | None
) -> Outcome | None:
    """The images of the figure, computed by a job that nobody asks for; without AnoGAN and article mode.

    Args:
        report: the one that is shown beside it: the figure takes the same images.
    """
    settings = replace(_settings(report), article_images=0, anogan_images=0, only_figure=True)
    request = ExperimentRequest(chosen.name, bundle.name, version, settings)
    job = models.jobs().get(job_id(request.key))
    if job is None or job.active:  # submitted again, an active one only gets another owner
        job = _submit(request, FIGURE, t("experiments.figure_job"), bundle)
    components.remember(job, link=False)
    job.wait(PATIENCE)
    components.job_box(job, curves=False)
    components.job_end(job)
    if not job.active and job.result is None:
        st.button(
            t("visualise.again"),
            key="figure_again",
            on_click=_submit,
            args=(request, FIGURE, t("experiments.figure_job"), bundle),
        )
    return job.result


def run_again(chosen: Experiment, bundle: Bundle, version: str, report: Report | None) -> Outcome | None:
    """A form for all of an experiment with numbers of the visitor's; what came out of it."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        few = 4 if bundle.anogan is not None else 0
        words = (t("experiments.images"), t("experiments.images_help"))
        images = _number("experiment_images", words, MIN_IMAGES, MOST_IMAGES, 20)
        words = (t("experiments.article"), t("experiments.article_help"))
        article = _number("experiment_article", words, 0, MOST_ARTICLE, 0)
        words = (t("experiments.anogan"), t("experiments.anogan_help"))
        anogan = _number("experiment_anogan", words, 0, MOST_ANOGAN, few)
    settings = ExperimentSettings(images=images, article_images=article, anogan_images=anogan)
    if report is not None:
        time = components.duration(estimated_seconds(report, settings))
        st.caption(t("experiments.about", time=time, device=plain(report.device)))
    busy = components.busy(RUN)
    if st.button(
        t("experiments.go"),
        key="run_experiment",
        type="primary",
        icon=":material/play_arrow:",
        disabled=busy,
        help=t("train.busy") if busy else None,
    ):
        request = ExperimentRequest(chosen.name, bundle.name, version, settings)
        title = t("experiments.job", title=experiment_title(chosen.name))
        components.remember(_submit(request, RUN, title, bundle))
        st.rerun()
    job = components.current_job(RUN)
    if job is None:
        return None
    components.job_box(job, curves=False)
    components.job_end(job)
    asked: ExperimentRequest = job.spec
    return job.result if (asked.name, asked.bundle) == (chosen.name, bundle.name) and not job.active else None


def _settings(report: Report | None) -> ExperimentSettings:
    """Those that a report was made with; the usual ones where it does not say."""
    try:
        return ExperimentSettings(**report.settings) if report is not None else ExperimentSettings()
    except (TypeError, ValueError):
        return ExperimentSettings()


def _submit(request: ExperimentRequest, kind: str, title: str, bundle: Bundle) -> Job:
    return models.jobs().submit(
        request.key,
        kind,
        title,
        lambda job: run_experiment(job, request, bundle),
        spec=request,
        owner=components.owner(),
        bundles=(request.bundle,),
    )


def _number(key: str, words: tuple[str, str], low: int, high: int, default: int) -> int:
    caption, help = words
    value = st.number_input(caption, low, high, default, key=key, help=help)
    return int(clamp(value, low, high, default))
