"""Own images, step by step: good ones become a bundle by themselves, suspicious ones are judged with it."""

from __future__ import annotations

import secrets

import numpy as np
import streamlit as st

from anounet.app import components, forms, models, panels, ranking, routing, uploads
from anounet.app.jobs import FAILED, Job
from anounet.app.texts import label, plain, t
from anounet.app.work import centers
from anounet.app.work.ranking import MAX_IMAGES, Ranking
from anounet.bundle import Bundle, bundle_names, read_info
from anounet.center import METRICS
from anounet.storage import WeightsError

SIZES = (96, 128, 192, 256)
ENOUGH = 20  # good images from which on a bundle is made
SHOWN = 12  # thumbnails
SHOWN_FAULTS = 5
GOOD, SUSPICIOUS = "own_", "suspects_"  # what the keys of both fields for files begin with
_TRIED, _TAKEN, _NAME = "_own_tried", "_own_taken", "own_name"


# --- 1: good images ----------------------------------------------------------------------------------


def good_images() -> tuple[Bundle, str] | None:
    """Step 1: the bundle that the link names, once images can be judged with it, and its version."""
    st.subheader(t("own.step_good"), anchor=False)
    _say()
    name = st.query_params.get("bundle")
    job = models.jobs().latest(forms.OWN, name) if name else None
    if name and name not in bundle_names() and (job is None or not job.active):
        components.job_end(job)
        if job is None:
            known = ", ".join(centers.own_bundles()) or "–"
            st.warning(t("bundle.unknown", name=plain(name), known=known), icon=":material/inventory_2:")
        name = None
    if name is None:
        _first_images()
        return None
    if not can_judge(name):
        if job is not None and job.active:
            components.job_box(job)
        else:
            _unfinished(name, job)
        return None
    opened = components.open_bundle(name)
    if opened is not None:
        _summary(opened, job)
    return opened


def can_judge(name: str) -> bool:
    """Whether a bundle has local centres, and a threshold for what is judged by them."""
    try:
        info = read_info(name)
    except WeightsError:
        return False
    there = "local_centers.pt" in info["files"]
    return there and any(f"{method}:score" in info.get("limits", {}) for method in ("fast-local", "instant"))


def _first_images() -> None:
    """Good images until there are enough: then the bundle is begun at once, and settings are optional."""
    state = st.session_state
    state.pop(_TAKEN, None)
    drop = st.container()
    with st.expander(t("own.settings"), icon=":material/tune:"):
        usual = forms.free_own_name()
        name = st.text_input(
            t("own.name"), placeholder=usual, key=_NAME, help=t("name.help"), persist_state="session"
        ).strip()
        handed = state.get(f"_{GOOD}uploads")
        size = _choose_size(bool(handed is not None and handed.kept))
        metric = st.selectbox(
            t("center.score"),
            list(METRICS),
            format_func=lambda metric: label(f"score_by.{metric}"),
            key="own_metric",
            help=t("center.score_help"),
            persist_state="session",
        )
    name = name or usual
    with drop:
        handed = _collect_good(size, t("own.drop"), MAX_IMAGES, True)
        _left_out(handed.faults)
        count, fault = len(handed.kept), forms.own_fault(name)
        if count:
            st.markdown(t("own.count", n=count))
        if fault:
            st.warning(fault, icon=":material/info:")
        elif 0 < count < ENOUGH:
            st.info(t("own.more", n=count, least=ENOUGH, missing=ENOUGH - count), icon=":material/info:")
        uploads.show(handed, GOOD, SHOWN)
        if fault or count < ENOUGH:
            return
        tried = tuple(handed.kept)
        if state.get(_TRIED) != tried:
            state[_TRIED] = tried
            forms.prepare_own(name, handed.pictures, size, metric)
        if forms.start_button(forms.OWN, t("own.again"), "", key="prepare_own", icon=":material/replay:"):
            forms.prepare_own(name, handed.pictures, size, metric)


def _choose_size(locked: bool) -> int:
    """The side that images are brought to, in pixels; images that are here have been brought to it."""
    size = st.segmented_control(
        t("own.size"),
        SIZES,
        default=SIZES[0],
        required=True,
        format_func=lambda side: t("own.pixels", n=side),
        key="own_size",
        help=t("own.size_help"),
        disabled=locked,
        persist_state="session",
    )
    if locked:
        st.caption(t("own.size_locked"))
    return size if size in SIZES else SIZES[0]


def _collect_good(size: int, caption: str, most: int, first: bool) -> uploads.Uploads:
    handed = uploads.collect(
        GOOD, size, MAX_IMAGES, caption=caption, help=t("own.limits", n=MAX_IMAGES), zips=True, pasting=first
    )
    handed.most = most
    return handed


def _left_out(faults: list[str]) -> None:
    if not faults:
        return
    st.warning(t("own.left_out", n=len(faults)), icon=":material/broken_image:")
    for fault in faults[:SHOWN_FAULTS]:
        st.caption(plain(fault))
    if len(faults) > SHOWN_FAULTS:
        with st.expander(t("own.left_out_more", n=len(faults) - SHOWN_FAULTS)):
            for fault in faults[SHOWN_FAULTS:]:
                st.caption(plain(fault))


def _unfinished(name: str, job: Job | None) -> None:
    """A bundle that was cut off before images can be judged with it."""
    components.job_end(job)
    if name not in centers.own_bundles():
        st.warning(t("own.no_local", name=plain(name)), icon=":material/adjust:")
        routing.link("center", t("home.go_center"), bundle=name)
    elif forms.start_button(forms.OWN, t("own.finish"), "", key="finish_own", icon=":material/replay:"):
        forms.extend_own(name, ())
    _new_button()


def _summary(opened: tuple[Bundle, str], job: Job | None) -> None:
    """What the bundle was made from, what was left out, and examples; further images make it anew."""
    bundle, _ = opened
    own = bundle.name in centers.own_bundles()
    basis = ranking.basis_of(*opened)
    local = bundle.require_local()
    if job is not None and job.state == FAILED:
        components.job_end(job)
    held = components.held_back_count(local)
    said = t("own.ready", name=plain(bundle.name), n=f"{local.count + held:,}")
    st.success(said, icon=":material/check_circle:")
    with st.container(horizontal=True, key="own_facts"):
        st.metric(t("local.m_images"), f"{local.count:,}", width=150)
        st.metric(t("center.m_held"), f"{held:,}", width=150)
        st.metric(
            t("center.m_threshold"),
            f"{bundle.threshold(basis.settings):.2f}",
            help=t("own.threshold_help"),
            width=150,
        )
        st.metric(t("own.size"), t("own.pixels", n=bundle.size), width=150)
    skipped = list(local.meta.get("skipped", ()))
    if skipped:
        st.caption(t("local.skipped", n=len(skipped), names=plain(", ".join(map(str, skipped[:10])))))
    if own:
        known = _known(bundle.name, _changed(bundle.name))
        cells = [panels.figure(pixels, "", alt=t("alt.original", name=name)) for name, pixels in known.shown]
        st.html(panels.grid(cells, "au-small"))
        _further(bundle, known, job)
    with st.container(horizontal=True):
        _new_button()
        _bundles(bundle.name)


def going_on(name: str) -> None:
    """What a preparation still does once images can be judged: nothing on the page waits for it."""
    job = models.jobs().latest(forms.OWN, name)
    if job is not None and job.active:
        st.caption(t("own.going_on"))
        components.job_box(job)


class _Known:
    """The images in a bundle: the hashes of all, and some to look at."""

    def __init__(self, name: str) -> None:
        pictures = centers.own_pictures(name)
        self.keys = frozenset(picture.key for picture in pictures)
        self.shown: list[tuple[str, np.ndarray]] = [(p.name, p.pixels.copy()) for p in pictures[:SHOWN]]


@st.cache_resource(max_entries=8, show_spinner=False)
def _known(name: str, changed: int) -> _Known:
    return _Known(name)


def _changed(name: str) -> int:
    try:
        return centers.images_folder(name).stat().st_mtime_ns
    except OSError:
        return 0


def _further(bundle: Bundle, known: _Known, job: Job | None) -> None:
    """Good images that came after the bundle was made: they count once it is made anew."""
    state, busy = st.session_state, job is not None and job.active
    handed = state.get(f"_{GOOD}uploads")
    if handed is not None and handed.size == bundle.size and not busy:  # what fails gives its images back
        for key in [key for key in handed.kept if key in known.keys]:
            picture = handed.kept.pop(key)
            if state.get(_TAKEN) == bundle.name:
                handed.faults.append(t("own.inside", name=picture.name))
        state[_TAKEN] = bundle.name
    if handed is not None:
        _left_out(handed.faults)
    waiting = handed is not None and any(key not in known.keys for key in handed.kept)
    with st.expander(t("own.further"), icon=":material/add_photo_alternate:", expanded=waiting):
        room = max(0, MAX_IMAGES - len(known.keys))
        handed = _collect_good(bundle.size, t("own.further_drop"), room, False)
        further = [picture for key, picture in handed.kept.items() if key not in known.keys]
        if not further:
            return
        st.info(t("own.further_count", n=len(further), name=plain(bundle.name)), icon=":material/info:")
        if bundle.instant is not None:
            st.caption(t("own.further_instant"))
        if not busy:
            uploads.show(handed, GOOD, SHOWN)
        if st.button(
            t("own.anew", n=len(known.keys) + len(further)),
            key="extend_own",
            type="primary",
            icon=":material/autorenew:",
            disabled=busy,
            help=t("train.busy") if busy else None,
        ):
            state.pop(_TAKEN, None)  # that they are inside is no news then
            forms.extend_own(bundle.name, further)


def _new_button() -> None:
    st.button(t("own.new"), key="own_new", icon=":material/add:", on_click=_begin_anew)


def _begin_anew() -> None:
    """Another bundle from other images; this one stays."""
    for key in (f"_{GOOD}uploads", f"_{SUSPICIOUS}uploads", _TRIED, _TAKEN, _NAME, f"_job_{forms.OWN}"):
        st.session_state.pop(key, None)
    _unlink()


def _unlink() -> None:
    for key in ("bundle", "ranking", "open", "job"):
        if key in st.query_params:
            del st.query_params[key]


# --- 2: suspicious images ----------------------------------------------------------------------------


def suspicious_images(bundle: Bundle) -> Ranking | None:
    """Step 2: images to judge. They are kept on the server for the table, bounded, and found by the link."""
    st.subheader(t("own.step_suspicious"), anchor=False)
    rankings, wanted = models.rankings(), st.query_params.get("ranking")
    found = rankings.get(wanted, bundle.name, bundle.size)
    handed = uploads.collect(
        SUSPICIOUS,
        bundle.size,
        MAX_IMAGES,
        caption=t("own.suspicious_drop"),
        help=t("own.suspicious_limits", n=MAX_IMAGES),
        zips=True,
    )
    if handed.kept:
        if found is None:
            found = rankings.new(secrets.token_hex(6), bundle.name, bundle.size)
            st.query_params["ranking"] = found.id
        handed.faults += found.add(handed.pictures)
        handed.kept.clear()
        rankings.bound()
    _left_out(handed.faults)
    if found is None and wanted:
        st.info(t("rank.gone"), icon=":material/history:")
    if found is not None and len(found):
        st.button(
            t("images.remove", n=len(found)),
            key="suspects_remove",
            icon=":material/delete:",
            on_click=_forget,
            args=(found,),
        )
    return found if found is not None and len(found) else None


def _forget(found: Ranking) -> None:
    found.clear()
    st.query_params.pop("open", None)


# --- bundles of own images ---------------------------------------------------------------------------


def _say() -> None:
    said = st.session_state.pop("_own_said", None)
    if said:
        st.info(said, icon=":material/delete:")


def show_bundles() -> None:
    """The bundles that were made of own images, where the link names none."""
    if "bundle" not in st.query_params:
        _bundles(None)


def _bundles(current: str | None) -> None:
    """A way to go on with one of the bundles, and to delete one that no job needs."""
    state, names = st.session_state, centers.own_bundles()
    if not names:
        return
    if state.get("own_bundle") not in names:
        state.pop("own_bundle", None)
    with st.popover(t("own.bundles", n=len(names), most=centers.MAX_OWN), icon=":material/inventory_2:"):
        index = names.index(current) if current in names else 0
        name = st.selectbox(t("own.which"), names, index, key="own_bundle")
        st.button(
            t("own.open"),
            key="own_open",
            icon=":material/folder_open:",
            on_click=_open,
            args=(name,),
            disabled=name == current,
        )
        st.markdown(t("own.sure", name=plain(name)))
        st.button(
            t("own.delete_now"), key="own_delete", icon=":material/delete:", on_click=_delete, args=(name,)
        )


def _open(name: str) -> None:
    _begin_anew()
    st.query_params["bundle"] = name


def _delete(name: str) -> None:
    said = t("own.deleted", name=plain(name))
    try:
        if not models.jobs().unless_used(name, lambda: centers.delete_own(name)):
            said = t("own.in_use", name=plain(name))
        elif st.query_params.get("bundle") == name:
            _begin_anew()
    except (WeightsError, OSError) as error:
        said = components.sentence(error)
    models.forget_data()  # another bundle of that name would have its images in the same folder
    st.session_state["_own_said"] = said
