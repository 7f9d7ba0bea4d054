"""Forms that start long work: training an f-Net, computing C, training AnoGAN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import streamlit as st

from anounet.anogan import AnoGANSettings
from anounet.app import components, models, routing, work
from anounet.app.inputs import clamp
from anounet.app.texts import label, plain, t
from anounet.bundle import SHIPPED, Bundle, bundle_names
from anounet.center import HELD_BACK, MIN_IMAGES
from anounet.feature_net import WIDTHS
from anounet.instant import InstantSettings
from anounet.metric_learning import ARTICLE, FNetSettings
from anounet.prepare import DataChoice

F_NET, CENTER, ANOGAN, OWN, INSTANT = "f_net", "center", "anogan", "own", "instant"  # kinds of jobs
COUNT = 1000  # normal images that C is made from, unless there are fewer; see `prepare.read_normals`
MAX_GAN_STEPS = 20_000


def _use_article() -> None:
    state = st.session_state
    state["epochs"], state["batch"], state["rate"] = ARTICLE.epochs, ARTICLE.batch, ARTICLE.learning_rate
    state["width"], state["alpha"], state["limit"] = ARTICLE.width, ARTICLE.alpha, DataChoice.limit


def choose_training() -> FNetSettings:
    """Every setting of the training; the defaults stand in `FNetSettings`, the article's one click away."""
    defaults = FNetSettings()
    for key, value in {
        "epochs": defaults.epochs,
        "batch": defaults.batch,
        "rate": defaults.learning_rate,
        "width": defaults.width,
        "alpha": defaults.alpha,
        "seed": defaults.seed,
    }.items():
        st.session_state.setdefault(key, value)
    st.button(
        t("train.article"),
        key="article",
        icon=":material/menu_book:",
        on_click=_use_article,
        help=t("train.article_help", epochs=ARTICLE.epochs, batch=ARTICLE.batch, width=f"{ARTICLE.width:g}"),
    )
    a, b, c = st.columns(3)
    epochs = a.number_input(t("train.epochs"), 1, 200, key="epochs")
    batch = b.number_input(t("train.batch"), 2, 512, key="batch")
    rate = c.number_input(t("train.rate"), 1e-6, 0.1, key="rate", step=1e-5, format="%.6f")
    width = a.selectbox(t("train.width"), sorted(WIDTHS), key="width", help=t("train.width_help"))
    alpha = b.number_input(t("train.alpha"), 0.5, 50.0, key="alpha", step=0.5, help=t("train.alpha_help"))
    seed = c.number_input(t("train.seed"), 0, 2**31 - 1, key="seed")
    return FNetSettings(
        width=width,
        alpha=clamp(alpha, 0.5, 50.0, defaults.alpha),
        epochs=int(clamp(epochs, 1, 200, defaults.epochs)),
        batch=int(clamp(batch, 2, 512, defaults.batch)),
        learning_rate=clamp(rate, 1e-6, 0.1, defaults.learning_rate),
        seed=int(clamp(seed, 0, 2**31 - 1, defaults.seed)),
    )


def train_f_net(choice: DataChoice | None) -> None:
    """The settings, the new bundle's name, and the start; a disabled start says why."""
    settings = choose_training()
    start = st.file_uploader(t("train.start"), ["pth", "pt"], key="start_weights", help=t("train.start_help"))
    taken = bundle_names()
    suggested = models.free_name(choice.normal, choice.data, taken) if choice else ""
    name = st.text_input(t("name.save_as"), suggested, key=f"name_{suggested}", help=t("name.help"))
    fault = t("data.fix_first") if choice is None else _start_fault(settings) if start is None else ""
    if not fault:
        try:
            name = work.check_new_name(name)
        except ValueError as error:
            fault = plain(str(error))
    busy = components.busy(F_NET)
    if fault and not busy:
        st.warning(fault, icon=":material/info:")
    if st.button(
        t("train.go"),
        key="train",
        type="primary",
        icon=":material/model_training:",
        disabled=bool(fault) or busy,
        help=t("train.busy") if busy else fault or None,
    ):
        weights = (start.getvalue(), start.name) if start else (None, "")
        job = models.jobs().submit(
            f"f-net {name} {choice!r} {settings!r}",
            F_NET,
            t("train.job", name=name),
            lambda j: work.train_f_net(j, name, choice, settings, *weights),
            owner=components.owner(),
        )
        components.remember(job)
        st.rerun()


def _start_fault(settings: FNetSettings) -> str:
    """Why this width has no starting weights here, if so: ImageNet's are for width 1 only."""
    if settings.width == 1.0 or models.shipped_width() == settings.width:
        return ""
    return t("train.no_start", width=f"{settings.width:g}")


def compute_center(bundle: Bundle, choice: DataChoice, available: int) -> None:
    """Where to save, and the start; a disabled start says why.

    Args:
        available: images of the normal class.
    """
    st.caption(
        t(
            "center.available",
            n=f"{available:,}",
            normal=label(choice.normal),
            data=components.set_label(choice.data),
            used=f"{min(COUNT, available):,}",
            share=f"{HELD_BACK:.0%}",
        )
    )
    same = bundle.name != SHIPPED and bundle.info.get("normal") == choice.normal
    suggested = bundle.name if same else models.free_name(choice.normal, choice.data, bundle_names())
    target = st.text_input(
        t("name.save_as"), suggested, key=f"center_name_{bundle.name}_{suggested}", help=t("center.name_help")
    ).strip()
    busy, fault = components.busy(CENTER), ""
    try:
        if target != bundle.name or not same:
            work.check_new_name(target)
        if available < MIN_IMAGES:
            fault = t("center.too_few", n=available, least=MIN_IMAGES)
    except ValueError as error:
        fault = plain(str(error))
    if fault and not busy:
        st.warning(fault, icon=":material/info:")
    if st.button(
        t("center.go"),
        key="compute",
        type="primary",
        icon=":material/adjust:",
        disabled=bool(fault) or busy,
        help=t("train.busy") if busy else fault or None,
    ):
        source = bundle.name
        job = models.jobs().submit(
            f"center {source} {target} {choice!r}",
            CENTER,
            t("center.job", name=target),
            lambda j: work.compute_center(j, source, target, choice),
            owner=components.owner(),
        )
        components.remember(job)
        st.rerun()


def prepare_own(pictures: Sequence[work.Picture], size: int) -> None:
    """The new bundle's name and the start of its preparation; a disabled start says why."""
    taken = bundle_names()
    suggested = models.free_name("images", "my", taken)
    name = st.text_input(t("own.name"), suggested, key=f"own_name_{suggested}", help=t("name.help")).strip()
    busy, fault = components.busy(OWN), ""
    try:
        name = work.check_new_name(name)
        if SHIPPED not in taken:
            fault = t("own.no_general", name=SHIPPED)
        elif len(pictures) < MIN_IMAGES:
            fault = t("center.too_few", n=len(pictures), least=MIN_IMAGES) if pictures else t("own.nothing")
    except ValueError as error:
        fault = plain(str(error))
    before = components.current_job(OWN)
    ready = before is not None and before.result is not None and before.result.name == name
    if fault and pictures and not busy and not ready:  # that the name is taken is no news then
        st.warning(fault, icon=":material/info:")
    if st.button(
        t("own.go"),
        key="prepare_own",
        type="primary",
        icon=":material/auto_awesome:",
        disabled=bool(fault) or busy,
        help=t("train.busy") if busy else fault or None,
    ):
        images = tuple(pictures)
        known = " ".join(picture.key for picture in images)
        job = models.jobs().submit(
            f"own {name} {size} {known}",
            OWN,
            t("own.job", name=name),
            lambda j: work.prepare_own(j, name, images, size),
            owner=components.owner(),
        )
        components.remember(job)
        st.rerun()


# --- instant mode ------------------------------------------------------------------------------------


def choose_instant(bundle: str, now: InstantSettings) -> InstantSettings:
    """A field for each of `InstantSettings`'s, with what `now` holds in it.

    Raises:
        ValueError: a value that the training does not take.
    """
    values: dict[str, int | float] = {}
    with st.expander(t("instant.settings"), icon=":material/tune:"):
        columns = st.columns(2)
        for number, field in enumerate(fields(InstantSettings)):
            value = getattr(now, field.name)
            whole = isinstance(value, int)
            values[field.name] = columns[number % 2].number_input(
                label(f"instant.{field.name}"),
                value=value,
                min_value=0 if whole else 0.0,
                step=1 if whole else None,
                format=None if whole else "%g",
                key=f"instant_{bundle}_{field.name}",
            )
    return InstantSettings(**values)


def train_instant(bundle: Bundle) -> None:
    """Trains the U-Net of `instant` mode: what it is, its settings, and the start."""
    st.markdown(t("instant.what"))
    if bundle.local is None:
        st.info(t("instant.no_local", name=bundle.name), icon=":material/adjust:")
        return
    before = models.interrupted(bundle)
    fault, settings, go_on = "", None, False
    try:
        settings = choose_instant(bundle.name, before[1] if before else InstantSettings())
        go_on = before is not None and before[1] == settings
        if bundle.size % 2 ** (settings.depth - 1):
            fault = t("instant.depth", side=bundle.size, depth=settings.depth)
        choice = models.choice(bundle)
    except ValueError as error:
        fault = plain(str(error))
    if bundle.instant is not None and before is None:
        if bundle.name == SHIPPED:
            fault = t("instant.shipped")
        else:
            st.info(t("instant.there", name=bundle.name), icon=":material/check_circle:")
    elif before is not None and go_on:
        st.info(t("instant.goes_on", step=before[0], total=before[1].steps), icon=":material/resume:")
    elif before is not None:
        st.info(t("instant.other", step=before[0]), icon=":material/restart_alt:")
    busy = components.busy(INSTANT)
    if fault and not busy:
        st.info(fault, icon=":material/info:")
    left = settings.steps - (before[0] if go_on else 0) if settings else 0
    seconds = work.estimated_training(settings, bundle.size, left) if settings else 0
    title = t("instant.continue", step=before[0]) if go_on else t("instant.go")
    if st.button(
        title + (f" ({t('instant.about', time=components.duration(seconds))})" if settings else ""),
        key="train_instant",
        type="primary",
        icon=":material/bolt:",
        disabled=bool(fault) or busy,
        help=t("train.busy") if busy else fault or None,
    ):
        name = bundle.name
        job = models.jobs().submit(
            f"instant {name} {settings!r}",
            INSTANT,
            t("instant.job", name=name),
            lambda j: work.train_instant(j, name, choice, settings),
            spec=None,
            owner=components.owner(),
        )
        components.remember(job)
        st.rerun()


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
    with st.expander(t("instant.curves"), icon=":material/show_chart:"):
        components.final_curves(done.curves, done.steps, t("chart.step"), "instant_final")


def train_rival(bundle: Bundle) -> None:
    """Where the bundle has no AnoGAN: an offer to train one, while everything else works."""
    default = AnoGANSettings().steps
    job = components.current_job(ANOGAN)
    with st.container(border=True):
        st.markdown(t("anogan.none", name=bundle.name))
        if job is not None and job.active:
            components.job_box(job)
            return
        components.job_end(job)
        steps = st.number_input(
            t("anogan.steps"),
            10,
            MAX_GAN_STEPS,
            default,
            100,
            key="anogan_steps",
            help=t("anogan.steps_help"),
        )
        if st.button(t("anogan.train"), key="train_anogan", icon=":material/model_training:"):
            settings = AnoGANSettings(steps=int(clamp(steps, 10, MAX_GAN_STEPS, default)))
            choice = models.choice(bundle)
            job = models.jobs().submit(
                f"anogan {bundle.name} {settings!r}",
                ANOGAN,
                t("anogan.job", name=bundle.name),
                lambda job: work.train_anogan(job, bundle.name, choice, settings),
                owner=components.owner(),
            )
            components.remember(job)
            st.rerun()
