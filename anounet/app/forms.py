"""Forms that start long work: training an f-Net, computing C, training AnoGAN."""

from __future__ import annotations

import streamlit as st

from anounet.anogan import AnoGANSettings
from anounet.app import components, models, work
from anounet.app.inputs import clamp
from anounet.app.texts import label, plain, t
from anounet.bundle import SHIPPED, Bundle, bundle_names
from anounet.center import HELD_BACK, MIN_IMAGES
from anounet.feature_net import WIDTHS
from anounet.metric_learning import ARTICLE, FNetSettings
from anounet.prepare import DataChoice

F_NET, CENTER, ANOGAN = "f_net", "center", "anogan"  # kinds of jobs
COUNT = 1000  # normal images that C is made from, unless there are fewer
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
    """How many images, where to save, and the start; a disabled start says why.

    Args:
        available: images of the normal class.
    """
    most = max(MIN_IMAGES, available)
    asked = st.number_input(
        t("center.count"),
        MIN_IMAGES,
        most,
        min(COUNT, most),
        key=f"center_count_{bundle.name}_{choice.normal}",
        help=t("center.count_help", share=f"{HELD_BACK:.0%}"),
    )
    count = int(clamp(asked, MIN_IMAGES, most, min(COUNT, most)))
    st.caption(
        t("center.available", n=f"{available:,}", normal=label(choice.normal), data=label(choice.data))
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
            f"center {source} {target} {choice!r} {count}",
            CENTER,
            t("center.job", name=target),
            lambda j: work.compute_center(j, source, target, choice, count),
            owner=components.owner(),
        )
        components.remember(job)
        st.rerun()


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
