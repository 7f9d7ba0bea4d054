"""Forms that start, or go on with, the training of an f-Net."""

from __future__ import annotations

from functools import partial

import streamlit as st

from anounet.app import components, models
from anounet.app.forms import F_NET, begin, start_button
from anounet.app.inputs import clamp
from anounet.app.texts import plain, t
from anounet.app.work import centers, training
from anounet.bundle import SHIPPED, bundle_names
from anounet.feature_net import WIDTHS
from anounet.metric_learning import ARTICLE, BLOCKS, LEARNING_RATES, OBJECTIVES, ROBUST_EPS, FNetSettings
from anounet.prepare import DataChoice

USUAL, FILE = ":usual", ":file"  # kinds of starting weights beside bundles, none of whose names has a colon


def _use_article() -> None:
    state, article = st.session_state, ARTICLE.resolved()
    state["epochs"], state["batch"], state["rate"] = article.epochs, article.batch, article.learning_rate
    state["width"], state["alpha"], state["limit"] = article.width, article.alpha, DataChoice.limit
    state["objective"], state["robust"] = article.objective, False
    state["frozen"], state["augment"], state["decay"] = article.frozen_blocks, article.augment, article.decay


def _use_rate_of_objective() -> None:
    state = st.session_state
    state["rate"] = LEARNING_RATES.get(state["objective"], LEARNING_RATES[FNetSettings.objective])


def _choose_objective() -> str:
    """What the training minimises, with a sentence on it; each objective brings its own learning rate."""
    st.session_state.setdefault("objective", FNetSettings.objective)
    objective = st.segmented_control(
        t("train.objective"),
        list(OBJECTIVES),
        required=True,
        format_func=OBJECTIVES.__getitem__,
        key="objective",
        on_change=_use_rate_of_objective,
    )
    objective = objective if objective in OBJECTIVES else FNetSettings.objective
    st.caption(t("train.doc") if objective == "doc" else t("train.l2_softmax"))
    return objective


def _use_blocks_of_robust() -> None:
    """A robust F has no frozen block: the usual number follows the toggle, and can be changed after it."""
    eps = ROBUST_EPS if st.session_state["robust"] else 0.0
    st.session_state["frozen"] = FNetSettings(robust_eps=eps).resolved().frozen_blocks


def _choose_robust() -> bool:
    robust = st.toggle(t("train.robust"), key="robust", on_change=_use_blocks_of_robust)
    if robust:
        st.caption(t("train.robust_on", eps=f"{ROBUST_EPS:g}"))
    return robust


def choose_training() -> FNetSettings:
    """Every setting of the training; the defaults stand in `FNetSettings`, the article's one click away."""
    defaults = FNetSettings().resolved()
    for key, value in {
        "epochs": defaults.epochs,
        "batch": defaults.batch,
        "rate": defaults.learning_rate,
        "width": defaults.width,
        "alpha": defaults.alpha,
        "seed": defaults.seed,
        "frozen": defaults.frozen_blocks,
        "augment": defaults.augment,
        "decay": defaults.decay,
    }.items():
        st.session_state.setdefault(key, value)
    st.button(
        t("train.article"),
        key="article",
        icon=":material/menu_book:",
        on_click=_use_article,
        help=t("train.article_help", epochs=ARTICLE.epochs, batch=ARTICLE.batch, width=f"{ARTICLE.width:g}"),
    )
    objective, robust = _choose_objective(), _choose_robust()
    a, b, c = st.columns(3)
    epochs = a.number_input(t("train.epochs"), 1, 200, key="epochs")
    batch = b.number_input(t("train.batch"), 2, 512, key="batch")
    rate = c.number_input(t("train.rate"), 1e-6, 0.1, key="rate", step=1e-5, format="%.6f")
    width = a.selectbox(t("train.width"), sorted(WIDTHS), key="width", help=t("train.width_help"))
    alpha = b.number_input(t("train.alpha"), 0.5, 50.0, key="alpha", step=0.5, help=t("train.alpha_help"))
    seed = c.number_input(t("train.seed"), 0, 2**31 - 1, key="seed")
    frozen = a.number_input(t("train.frozen"), 0, BLOCKS - 1, key="frozen", help=t("train.frozen_help"))
    augment = b.toggle(t("train.augment"), key="augment", help=t("train.augment_help"))
    decay = c.toggle(t("train.decay"), key="decay", help=t("train.decay_help"))
    return FNetSettings(
        width=width,
        alpha=clamp(alpha, 0.5, 50.0, defaults.alpha),
        epochs=int(clamp(epochs, 1, 200, defaults.epochs)),
        batch=int(clamp(batch, 2, 512, defaults.batch)),
        learning_rate=clamp(rate, 1e-6, 0.1, LEARNING_RATES[objective]),
        objective=objective,
        robust_eps=ROBUST_EPS if robust else 0.0,
        frozen_blocks=int(clamp(frozen, 0, BLOCKS - 1, defaults.frozen_blocks)),
        augment=bool(augment),
        decay=bool(decay),
        seed=int(clamp(seed, 0, 2**31 - 1, defaults.seed)),
    )


def train_f_net(choice: DataChoice | None) -> None:
    """The settings, the new bundle's name, and the start; a disabled start says why."""
    settings = choose_training()
    start, start_name, fault = _choose_start(settings)
    taken = bundle_names()
    suggested = models.free_name(choice.normal, choice.data, taken) if choice else ""
    name = st.text_input(t("name.save_as"), suggested, key=f"name_{suggested}", help=t("name.help"))
    fault = (t("data.fix_first") if choice is None else _objective_fault(choice, settings)) or fault
    if not fault:
        try:
            name = centers.check_new_name(name)
        except ValueError as error:
            fault = plain(str(error))
    busy = components.busy(F_NET)
    if fault and not busy:
        st.warning(fault, icon=":material/info:")
    if start_button(F_NET, t("train.go"), fault, key="train", icon=":material/model_training:"):
        needed = (name, start) if isinstance(start, str) else (name,)
        begin(
            f"f-net {name} {choice!r} {settings!r} {start_name}",
            F_NET,
            t("train.job", name=name),
            lambda job: training.train_f_net(job, name, choice, settings, start, start_name),
            *needed,
        )


def _choose_start(settings: FNetSettings) -> tuple[bytes | str | None, str, str]:
    """The starting weights, what they are called, and why they can't be had, if so.

    They are a file's bytes, the name of a bundle whose F to go on from, or None for the usual ones.
    """
    kinds = {USUAL: t("train.start_usual"), FILE: t("train.start_file")}
    kinds |= {name: t("train.start_bundle", name=name) for name in bundle_names()}
    kind = st.selectbox(t("train.start"), list(kinds), key="start", format_func=lambda k: kinds.get(k, k))
    if kind == FILE:
        file = st.file_uploader(
            t("train.start_file"), ["pth", "pt"], key="start_weights", help=t("train.start_help")
        )
        return (None, "", t("train.start_none")) if file is None else (file.getvalue(), file.name, "")
    if kind == USUAL:
        there = settings.width == 1.0 or models.f_net_width(SHIPPED) == settings.width
        return None, "", "" if there else t("train.no_start", width=f"{settings.width:g}")
    width = models.f_net_width(kind)
    if width is None:
        return None, "", t("train.start_damaged", name=kind)
    fault = t("train.start_width", name=kind, width=f"{width:g}") if width != settings.width else ""
    return kind, kind, fault


def continue_f_net() -> None:
    """For each training of an f-Net that was cut off or stopped: an offer to go on with it."""
    for begun in models.begun_f_nets():
        with st.container(border=True):
            st.markdown(t("train.cut_off", name=begun.name, step=begun.step, total=begun.total))
            title, key = t("train.continue", step=begun.step), f"continue_{begun.name}"
            if start_button(F_NET, title, "", key=key, icon=":material/resume:"):
                _begin_again(begun.name)


def _begin_again(name: str) -> None:
    work = partial(training.continue_f_net, name=name)
    begin(f"continue f-net {name}", F_NET, t("train.job", name=name), work, name)


def _objective_fault(choice: DataChoice, settings: FNetSettings) -> str:
    """Why the chosen classes are too few for the objective, if so."""
    others = len(models.class_counts(choice.data)) - len(choice.exclude) - 1
    others += len(models.class_counts(choice.reference)) if choice.reference else 0
    return t("train.doc_classes") if settings.objective == "doc" and others < 2 else ""
