"""Forms that start long work: downloads, computing C, own images, training instant mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TypeVar

import streamlit as st

from anounet.app import components, models, routing
from anounet.app.inputs import clamp
from anounet.app.jobs import Job
from anounet.app.texts import label, plain, t
from anounet.app.work import answers, centers, fetching, training
from anounet.bundle import SHIPPED, Bundle, bundle_names
from anounet.center import HELD_BACK, METRICS, MIN_IMAGES
from anounet.datasets.download import SIZES
from anounet.instant import InstantSettings
from anounet.prepare import DataChoice, usual_metric

F_NET, CENTER, RIVAL, OWN, INSTANT = "f_net", "center", "train_rival", "own", "instant"
FETCH = "fetch"  # these are the kinds of jobs
S = TypeVar("S")


def start_button(kind: str, title: str, fault: str, *, key: str, icon: str) -> bool:
    """Whether the start of a kind of job was clicked; a disabled one says why."""
    busy = components.busy(kind)
    why = t("train.busy") if busy else fault
    return st.button(title, key=key, type="primary", icon=icon, disabled=bool(why), help=why or None)


def begin(key: str, kind: str, label: str, work: Callable[[Job], object], *bundles: str) -> None:
    """Queues a job, makes it this session's own and draws the page again; see `JobManager.submit`."""
    owner = components.owner()
    components.remember(models.jobs().submit(key, kind, label, work, owner=owner, bundles=bundles))
    st.rerun()


def offer_downloads() -> None:
    """A button for each data set that is not here yet and can be fetched."""
    here = models.data_names()
    missing = [name for name in SIZES if name not in here]
    job = components.current_job(FETCH)
    if job is not None and job.result in missing:
        models.forget_data()  # it has just arrived
        st.rerun()
    if not missing and job is None:
        return
    with st.expander(t("data.more"), icon=":material/download:", expanded=job is not None):
        st.caption(t("data.more_help"))
        if job is not None:
            components.job_box(job)
            components.job_end(job)
            if job.result is not None:
                st.success(t("data.fetched", name=label(job.result)), icon=":material/check_circle:")
        for name in missing:
            title = t("data.fetch", name=label(name), size=SIZES[name] / 1e6)
            if start_button(FETCH, title, "", key=f"fetch_{name}", icon=":material/download:"):
                work = partial(fetching.fetch, name=name)
                begin(f"fetch {name}", FETCH, t("data.fetch_job", name=label(name)), work)


def compute_center(bundle: Bundle, choice: DataChoice, available: int) -> None:
    """How many images, where to save, and the start; a disabled start says why.

    Args:
        available: images of the normal class.
    """
    st.caption(
        t(
            "center.available",
            n=f"{available:,}",
            normal=label(choice.normal),
            data=components.set_label(choice.data),
        )
    )
    key = f"center_count_{bundle.name}_{choice.normal}"
    count = _choose_count(
        min(available, DataChoice.count), None, key, t("center.count_help", share=f"{HELD_BACK:.0%}")
    )
    choice = replace(choice, count=count)
    metric = _choose_metric(bundle, choice)
    same = bundle.name != SHIPPED and bundle.info.get("normal") == choice.normal
    suggested = bundle.name if same else models.free_name(choice.normal, choice.data, bundle_names())
    target = st.text_input(
        t("name.save_as"), suggested, key=f"center_name_{bundle.name}_{suggested}", help=t("center.name_help")
    ).strip()
    busy, fault = components.busy(CENTER), ""
    try:
        if target != bundle.name or not same:
            centers.check_new_name(target)
        if available < MIN_IMAGES:
            fault = t("center.too_few", n=available, least=MIN_IMAGES)
    except ValueError as error:
        fault = plain(str(error))
    if fault and not busy:
        st.warning(fault, icon=":material/info:")
    if start_button(CENTER, t("center.go"), fault, key="compute", icon=":material/adjust:"):
        source = bundle.name
        begin(
            f"center {source} {target} {choice!r} {metric}",
            CENTER,
            t("center.job", name=target),
            lambda job: centers.compute_center(job, source, target, choice, metric),
            source,
            target,
        )


def _choose_metric(bundle: Bundle, choice: DataChoice) -> str:
    """What the score goes by: as it does now, by default."""
    options = list(METRICS)
    usual = bundle.center.metric if bundle.center is not None else usual_metric(bundle.name, choice)
    return st.selectbox(
        t("center.score"),
        options,
        options.index(usual),
        format_func=lambda name: label(f"score_by.{name}"),
        key=f"center_score_{bundle.name}",
        help=t("center.score_help"),
    )


def _choose_count(most: int, default: int | None, key: str, help: str) -> int:
    """How many normal images to use, of `most`; all of them by default."""
    most = max(MIN_IMAGES, most)
    default = min(default or most, most)
    count = st.number_input(t("center.count"), MIN_IMAGES, most, default, key=key, help=help)
    return int(clamp(count, MIN_IMAGES, most, default))


def own_fault(name: str) -> str:
    """Why no bundle of own images can be made under a name; "" where one can."""
    if SHIPPED not in bundle_names():
        return t("own.no_general", name=SHIPPED)
    if len(centers.own_bundles()) >= centers.MAX_OWN:
        return t("own.full", n=centers.MAX_OWN)
    try:
        centers.check_new_name(name)
    except ValueError as error:
        return plain(str(error))
    return ""


def free_own_name() -> str:
    """own-1, own-2, …: the first that no bundle has, nor one that is being made."""
    names = (f"own-{n}" for n in itertools.count(1))
    here = set(bundle_names())
    return next(n for n in names if n not in here and models.jobs().unless_used(n, lambda: None))


def prepare_own(name: str, pictures: Sequence[answers.Picture], size: int, metric: str) -> None:
    """Starts the preparation of a bundle of own images, and puts it into the link."""
    images, known = tuple(pictures), " ".join(picture.key for picture in pictures)
    _begin_own(
        f"own {name} {size} {metric} {known}",
        name,
        lambda job: centers.prepare_own(job, name, images, size, metric),
    )


def extend_own(name: str, pictures: Sequence[answers.Picture]) -> None:
    """Starts the same anew with further images."""
    images, known = tuple(pictures), " ".join(picture.key for picture in pictures)
    _begin_own(f"own more {name} {known}", name, lambda job: centers.extend_own(job, name, images))


def _begin_own(key: str, name: str, work: Callable[[Job], object]) -> None:
    st.session_state.pop(f"_job_{OWN}", None)  # one that is at another bundle goes on
    st.query_params["bundle"] = name
    begin(key, OWN, t("own.job", name=name), work, name)


# --- instant mode ------------------------------------------------------------------------------------


def choose_settings(now: S, names: str, key: str) -> S:
    """A field for each number of a training's settings, with what `now` holds in it.

    Args:
        names: what the labels of the fields' names begin with.
        key: likewise the fields' keys.

    Raises:
        ValueError: a value that the training does not take.
    """
    values: dict[str, int | float] = {}
    with st.expander(t("training.settings"), icon=":material/tune:"):
        columns = st.columns(2)
        for number, field in enumerate(fields(now)):
            value = getattr(now, field.name)
            whole = isinstance(value, int)
            values[field.name] = columns[number % 2].number_input(
                label(f"{names}.{field.name}"),
                value=value,
                min_value=0 if whole else 0.0,
                step=1 if whole else None,
                format=None if whole else "%g",
                key=f"{key}_{field.name}",
            )
    return type(now)(**values)


def train_instant(bundle: Bundle) -> None:
    """Trains the U-Net of `instant` mode: what it is, its settings, and the start."""
    st.markdown(t("instant.what"))
    if bundle.local is None:
        st.info(t("instant.no_local", name=bundle.name), icon=":material/adjust:")
        return
    before = models.interrupted(bundle)
    fault, settings, go_on = "", None, False
    try:
        count = _choose_count(
            bundle.local.count,
            before.images if before else None,
            f"instant_count_{bundle.name}",
            t("instant.count_help"),
        )
        now = before.settings if before else InstantSettings()
        settings = choose_settings(now, "instant", f"instant_{bundle.name}")
        go_on = before is not None and (before.settings, before.images) == (
            settings,
            min(count, bundle.local.count),
        )
        if bundle.size % 2 ** (settings.depth - 1):
            fault = t("instant.depth", side=bundle.size, depth=settings.depth)
        choice = replace(models.choice(bundle), count=count)
    except ValueError as error:
        fault = plain(str(error))
    if bundle.instant is not None and before is None:
        if bundle.name == SHIPPED:
            fault = t("instant.shipped")
        else:
            st.info(t("instant.there", name=bundle.name), icon=":material/check_circle:")
    elif before is not None and go_on:
        st.info(t("training.goes_on", step=before.step, total=settings.steps), icon=":material/resume:")
    elif before is not None:
        st.info(t("training.other", step=before.step), icon=":material/restart_alt:")
    busy = components.busy(INSTANT)
    if fault and not busy:
        st.info(fault, icon=":material/info:")
    left = settings.steps - (before.step if go_on else 0) if settings else 0
    seconds = training.estimated_training(settings, bundle.size, left) if settings else 0
    title = t("training.continue", step=before.step) if go_on else t("instant.go")
    if settings:
        title += f" ({t('instant.about', time=components.duration(seconds))})"
    if start_button(INSTANT, title, fault, key="train_instant", icon=":material/bolt:"):
        name = bundle.name
        begin(
            f"instant {name} {count} {settings!r}",
            INSTANT,
            t("instant.job", name=name),
            lambda job: training.train_instant(job, name, choice, settings),
            name,
        )


def instant_job() -> None:
    """The training that runs, or how it ended."""
    job = components.current_job(INSTANT)
    if job is None:
        return
    components.job_box(job, titles=(t("instant.pasted"), t("instant.redrawn")))
    components.job_end(job)
    done = job.result
    if done is None or job.active:
        return
    if done.steps < done.total:
        st.info(t("instant.kept", step=done.steps, total=done.total), icon=":material/stop_circle:")
        routing.link("center", t("instant.go_on"), bundle=done.name, kind=label("part.instant"))
    else:
        st.success(t("instant.done", name=done.name, steps=done.steps), icon=":material/check_circle:")
    routing.link("visualise", t("center.go_visualise"), bundle=done.name)
    training_curves(done.curves, done.steps, "instant_final")


def training_curves(curves: Mapping[str, Sequence[float]], steps: int, key: str) -> None:
    """How a training that has ended went; nothing where its net was kept from before."""
    if curves:
        with st.expander(t("training.curves"), icon=":material/show_chart:"):
            components.final_curves(curves, steps, t("chart.step"), key)
