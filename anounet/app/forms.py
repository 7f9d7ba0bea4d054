"""Forms that start long work: training an f-Net, computing C, training AnoGAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial

import streamlit as st

from anounet.anogan import AnoGANSettings
from anounet.app import components, models, panels, routing
from anounet.app.inputs import clamp
from anounet.app.jobs import Job
from anounet.app.texts import label, plain, t
from anounet.app.work import answers, centers, fetching, training
from anounet.bundle import SHIPPED, Bundle, bundle_names
from anounet.center import HELD_BACK, MIN_IMAGES
from anounet.datasets.download import SIZES
from anounet.feature_net import WIDTHS
from anounet.instant import InstantSettings
from anounet.metric_learning import ARTICLE, LEARNING_RATES, OBJECTIVES, ROBUST_EPS, FNetSettings
from anounet.prepare import DataChoice

F_NET, CENTER, ANOGAN, OWN, INSTANT = "f_net", "center", "anogan", "own", "instant"
FETCH = "fetch"  # these are the kinds of jobs
MAX_GAN_STEPS = 20_000


def _start_button(kind: str, title: str, fault: str, *, key: str, icon: str) -> bool:
    """Whether the start of a kind of job was clicked; a disabled one says why."""
    busy = components.busy(kind)
    why = t("train.busy") if busy else fault
    return st.button(title, key=key, type="primary", icon=icon, disabled=bool(why), help=why or None)


def _begin(key: str, kind: str, label: str, work: Callable[[Job], object], *bundles: str) -> None:
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
            if _start_button(FETCH, title, "", key=f"fetch_{name}", icon=":material/download:"):
                work = partial(fetching.fetch, name=name)
                _begin(f"fetch {name}", FETCH, t("data.fetch_job", name=label(name)), work)


def _use_article() -> None:
    state, article = st.session_state, ARTICLE.resolved()
    state["epochs"], state["batch"], state["rate"] = article.epochs, article.batch, article.learning_rate
    state["width"], state["alpha"], state["limit"] = article.width, article.alpha, DataChoice.limit
    state["objective"], state["robust"] = article.objective, False


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


def _choose_robust() -> bool:
    robust = st.toggle(t("train.robust"), key="robust")
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
    return FNetSettings(
        width=width,
        alpha=clamp(alpha, 0.5, 50.0, defaults.alpha),
        epochs=int(clamp(epochs, 1, 200, defaults.epochs)),
        batch=int(clamp(batch, 2, 512, defaults.batch)),
        learning_rate=clamp(rate, 1e-6, 0.1, LEARNING_RATES[objective]),
        objective=objective,
        robust_eps=ROBUST_EPS if robust else 0.0,
        seed=int(clamp(seed, 0, 2**31 - 1, defaults.seed)),
    )


def train_f_net(choice: DataChoice | None) -> None:
    """The settings, the new bundle's name, and the start; a disabled start says why."""
    settings = choose_training()
    start = st.file_uploader(t("train.start"), ["pth", "pt"], key="start_weights", help=t("train.start_help"))
    taken = bundle_names()
    suggested = models.free_name(choice.normal, choice.data, taken) if choice else ""
    name = st.text_input(t("name.save_as"), suggested, key=f"name_{suggested}", help=t("name.help"))
    fault = t("data.fix_first") if choice is None else _objective_fault(choice, settings)
    if not fault and start is None:
        fault = _start_fault(settings)
    if not fault:
        try:
            name = centers.check_new_name(name)
        except ValueError as error:
            fault = plain(str(error))
    busy = components.busy(F_NET)
    if fault and not busy:
        st.warning(fault, icon=":material/info:")
    if _start_button(F_NET, t("train.go"), fault, key="train", icon=":material/model_training:"):
        weights = (start.getvalue(), start.name) if start else (None, "")
        _begin(
            f"f-net {name} {choice!r} {settings!r}",
            F_NET,
            t("train.job", name=name),
            lambda job: training.train_f_net(job, name, choice, settings, *weights),
            name,
        )


def continue_f_net() -> None:
    """For each training of an f-Net that was cut off or stopped: an offer to go on with it."""
    for begun in models.begun_f_nets():
        with st.container(border=True):
            st.markdown(t("train.cut_off", name=begun.name, step=begun.step, total=begun.total))
            title, key = t("train.continue", step=begun.step), f"continue_{begun.name}"
            if _start_button(F_NET, title, "", key=key, icon=":material/resume:"):
                _begin_again(begun.name)


def _begin_again(name: str) -> None:
    work = partial(training.continue_f_net, name=name)
    _begin(f"continue f-net {name}", F_NET, t("train.job", name=name), work, name)


def _objective_fault(choice: DataChoice, settings: FNetSettings) -> str:
    """Why the chosen classes are too few for the objective, if so."""
    others = len(models.class_counts(choice.data)) - len(choice.exclude) - 1
    others += len(models.class_counts(choice.reference)) if choice.reference else 0
    return t("train.doc_classes") if settings.objective == "doc" and others < 2 else ""


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
    if _start_button(CENTER, t("center.go"), fault, key="compute", icon=":material/adjust:"):
        source = bundle.name
        _begin(
            f"center {source} {target} {choice!r}",
            CENTER,
            t("center.job", name=target),
            lambda job: centers.compute_center(job, source, target, choice),
            source,
            target,
        )


def _choose_count(most: int, default: int | None, key: str, help: str) -> int:
    """How many normal images to use, of `most`; all of them by default."""
    most = max(MIN_IMAGES, most)
    default = min(default or most, most)
    count = st.number_input(t("center.count"), MIN_IMAGES, most, default, key=key, help=help)
    return int(clamp(count, MIN_IMAGES, most, default))


def prepare_own(pictures: Sequence[answers.Picture], size: int) -> None:
    """The new bundle's name and the start of its preparation; a disabled start says why."""
    taken = bundle_names()
    suggested = models.free_name("images", "my", taken)
    name = st.text_input(t("own.name"), suggested, key=f"own_name_{suggested}", help=t("name.help")).strip()
    busy, fault = components.busy(OWN), ""
    full = len(centers.own_bundles()) >= centers.MAX_OWN
    try:
        name = centers.check_new_name(name)
        if SHIPPED not in taken:
            fault = t("own.no_general", name=SHIPPED)
        elif full:
            fault = t("own.full", n=centers.MAX_OWN)
        elif len(pictures) < MIN_IMAGES:
            fault = t("center.too_few", n=len(pictures), least=MIN_IMAGES) if pictures else t("own.nothing")
    except ValueError as error:
        fault = plain(str(error))
    before = components.current_job(OWN)
    ready = before is not None and before.result is not None and before.result.name == name
    if fault and (pictures or full) and not busy and not ready:  # that the name is taken is no news then
        st.warning(fault, icon=":material/info:")
    if _start_button(OWN, t("own.go"), fault, key="prepare_own", icon=":material/auto_awesome:"):
        images = tuple(pictures)
        known = " ".join(picture.key for picture in images)
        _begin(
            f"own {name} {size} {known}",
            OWN,
            t("own.job", name=name),
            lambda job: centers.prepare_own(job, name, images, size),
            name,
        )


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
        count = _choose_count(
            bundle.local.count,
            before.images if before else None,
            f"instant_count_{bundle.name}",
            t("instant.count_help"),
        )
        settings = choose_instant(bundle.name, before.settings if before else InstantSettings())
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
        st.info(t("instant.goes_on", step=before.step, total=settings.steps), icon=":material/resume:")
    elif before is not None:
        st.info(t("instant.other", step=before.step), icon=":material/restart_alt:")
    busy = components.busy(INSTANT)
    if fault and not busy:
        st.info(fault, icon=":material/info:")
    left = settings.steps - (before.step if go_on else 0) if settings else 0
    seconds = training.estimated_training(settings, bundle.size, left) if settings else 0
    title = t("instant.continue", step=before.step) if go_on else t("instant.go")
    if settings:
        title += f" ({t('instant.about', time=components.duration(seconds))})"
    if _start_button(INSTANT, title, fault, key="train_instant", icon=":material/bolt:"):
        name = bundle.name
        _begin(
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
            _begin(
                f"anogan {bundle.name} {settings!r}",
                ANOGAN,
                t("anogan.job", name=bundle.name),
                lambda job: training.train_anogan(job, bundle.name, choice, settings),
                bundle.name,
            )


def anogan_training(bundle: Bundle, version: str) -> None:
    """How AnoGAN's training went, and what it draws: a search finds nothing that it can't draw."""
    curves = dict(bundle.require_anogan().meta.get("curves", {}))
    steps = curves.pop("step", ())
    if steps:
        components.final_curves(curves, steps[-1], t("chart.step"), "anogan_final")
    st.markdown(t("anogan.samples"))
    cells = [
        panels.figure(image, "", alt=t("alt.sample")) for image in models.gan_samples(bundle.name, version)
    ]
    st.html(panels.grid(cells, "au-small"))
