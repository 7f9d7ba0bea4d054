"""What a visitor hands in: uploads, samples, numbers. All of it is checked here, not only in the browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from anounet import ano_unet
from anounet.anomaly_map import COLORMAPS, MAPS
from anounet.app import models, panels, routing, uploads
from anounet.app.texts import in_every_language, label, plain, t
from anounet.app.work.answers import Picture
from anounet.bundle import USUAL_MAP, Bundle
from anounet.datasets import DataError
from anounet.images import content_hash
from anounet.visualization import NEAREST

MAX_PICTURES = 50
PICTURE_BYTES = 32 * 2**20  # of results that the pictures of one request may fill
DEFAULT_SAMPLE = "missing"
BETA_TOP = 1000.0  # what the fields offer; the core allows more
REFINE_TOP = 50  # refining steps
UNITS, SOURCES = ("normal", "grey"), ("samples", "upload")


def clamp(value: Any, low: float, high: float, default: float) -> float:
    """A number within its range, whatever came in; `default` for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return default if number != number else min(max(number, low), high)


def bound_number(
    caption: str, key: str, low: float, high: float, default: float, step: float, help: str | None = None
) -> float:
    """A number field that lives in the link; a value outside its range is brought back, and said so."""
    kind = int if isinstance(default, int) else float
    asked = st.query_params.get(key)
    now = clamp(st.session_state.get(key, default), low, high, default)
    st.session_state[key] = kind(now)
    value = st.number_input(
        caption, kind(low), kind(high), step=kind(step), key=key, bind="query-params", help=help
    )
    wanted = clamp(asked, float("-inf"), float("inf"), float(value))
    if asked is not None and wanted != clamp(asked, low, high, wanted):
        st.caption(t("input.clamped", what=caption, low=f"{low:g}", high=f"{high:g}", value=f"{value:g}"))
    return kind(clamp(value, low, high, default))


def accept_plain(key: str, options: Sequence[str], shown: Callable[[str], str]) -> None:
    """Lets a link name options plainly (`mode=article`), or as another language shows them.

    Streamlit itself writes and reads the names that are shown now (`mode=Article`).
    """
    asked = st.query_params.get_all(key)
    if not asked or key in st.session_state:
        return
    names = {said: shown(option) for option in options for said in in_every_language(shown, option)}
    names |= {said: said for said in map(shown, options)}
    names |= {option: shown(option) for option in options}
    wanted = [names.get(name, name) for name in asked]
    if wanted != asked:
        st.query_params[key] = wanted
        st.rerun()


def choose_one(
    caption: str,
    key: str,
    options: Sequence[str],
    shown: Callable[[str], str],
    *,
    help: str | None = None,
    hidden: bool = False,
) -> str:
    """One of some options, side by side, kept in the link; the first one by default."""
    accept_plain(key, options, shown)
    chosen = st.segmented_control(
        caption,
        list(options),
        default=options[0],
        required=True,
        format_func=shown,
        key=key,
        bind="query-params",
        help=help,
        label_visibility="collapsed" if hidden else "visible",
    )
    return chosen if chosen in options else options[0]


# --- settings of Ano-Unet ----------------------------------------------------------------------------


def offered_modes(bundle: Bundle) -> list[str]:
    """The modes that a bundle has the parts for, the best first."""
    parts = {
        "instant": bundle.local is not None and bundle.instant is not None,
        "fast": bundle.identity is not None and (bundle.center is not None or bundle.local is not None),
        "article": bundle.center is not None,
    }
    return [mode for mode in ano_unet.MODES if parts[mode]]


def choose_settings(bundle: Bundle) -> ano_unet.Settings:
    """Mode, kind of C, β and steps, with the article's presets one click away.

    Args:
        bundle: one that `offered_modes` gives a mode for.
    """
    modes = offered_modes(bundle)
    accept_plain("mode", list(ano_unet.MODES), label)
    if st.session_state.get("mode") not in modes:
        st.session_state["mode"] = modes[0]
    mode = st.segmented_control(
        t("settings.mode"),
        modes,
        required=True,
        format_func=label,
        key="mode",
        bind="query-params",
        help=t("settings.mode_help"),
    )
    mode = mode if mode in modes else modes[0]
    if "instant" not in modes:
        st.caption(t("settings.no_instant") if bundle.local is not None else t("settings.no_local"))
        kind = "instant" if bundle.local is not None else "local"
        routing.link("center", t("settings.make_instant"), bundle=bundle.name, kind=part_label(kind))
    center = _choose_center(bundle) if mode == "fast" else None
    defaults = bundle.settings(mode, center=center)
    method = (defaults.method, bundle.name)
    if st.session_state.get("_settings_of") != method:
        if "_settings_of" in st.session_state:
            _set_numbers(defaults.beta, defaults.steps, defaults.slack)
        st.session_state["_settings_of"] = method
    if mode == "instant":
        steps = st.slider(
            t("settings.refine"),
            0,
            REFINE_TOP,
            0,
            key="refine",
            bind="query-params",
            help=t("settings.refine_help"),
        )
        return bundle.settings(mode, steps=int(clamp(steps, 0, REFINE_TOP, 0)))
    left, right = st.columns(2)
    with left:
        beta = bound_number(
            t("settings.beta"),
            "beta",
            0.0,
            BETA_TOP,
            float(defaults.beta),
            5.0 if defaults.center == "global" else 0.5,
            t("settings.beta_help"),
        )
    with right:
        steps = bound_number(
            t("settings.steps"), "steps", 1, 500, int(defaults.steps), 5, t("settings.steps_help")
        )
    slack = None
    if mode == "fast" and defaults.center == "global" and bundle.center.knows_levels:
        slack = bound_number(
            t("settings.slack"), "slack", 0.0, 1.0, float(defaults.slack), 0.05, t("settings.slack_help")
        )
    if "article" in modes:
        st.caption(t("settings.presets"))
        with st.container(horizontal=True, gap="small"):
            for number, preset in enumerate(ano_unet.ARTICLE_PRESETS.values()):
                st.button(
                    t("settings.preset", beta=f"{preset.beta:g}", steps=preset.steps),
                    key=f"preset_{number}",
                    help=t("settings.preset_help"),
                    on_click=_use_preset,
                    args=(preset, bundle.name),
                )
    return bundle.settings(mode, center=center, beta=beta, steps=steps, slack=slack)


def _choose_center(bundle: Bundle) -> str:
    """Which C `fast` mode minimises the distance from, of those that the bundle has."""
    kinds = [kind for kind, part in (("global", bundle.center), ("local", bundle.local)) if part is not None]
    if len(kinds) == 1:
        return kinds[0]
    return choose_one(t("settings.center"), "c", kinds, center_label, help=t("settings.center_help"))


def center_label(kind: str) -> str:
    return label(f"c.{kind}")


def _set_numbers(beta: float, steps: int, slack: float = 0.0) -> None:
    state = st.session_state
    state["beta"], state["steps"], state["slack"] = float(beta), int(steps), float(slack)


def _use_preset(preset: ano_unet.Settings, bundle: str) -> None:
    st.session_state["mode"] = preset.mode
    st.session_state["_settings_of"] = (preset.method, bundle)
    _set_numbers(preset.beta, preset.steps)


def choose_view(bundle: Bundle, settings: ano_unet.Settings) -> panels.View:
    """How maps are shown, in a row above the results: nothing is computed anew for it."""
    names = list(MAPS) if bundle.local is not None else ["residual"]
    usual = USUAL_MAP.get(settings.method, "residual")
    state = st.session_state
    accept_plain("map", names, map_label)
    if state.get("_map_of", settings.method) != settings.method or state.get("map", usual) not in names:
        state["map"] = usual  # each mode has the map that was chosen for it
    state["_map_of"] = settings.method
    with st.container(horizontal=True, vertical_alignment="bottom", key="view"):
        name = st.selectbox(
            t("view.map"),
            names,
            index=names.index(usual),
            key="map",
            bind="query-params",
            format_func=map_label,
            help=t("view.map_help"),
            width=290,
        )
        threshold = choose_one(
            t("view.threshold"), "level", panels.THRESHOLDS, threshold_label, help=t("view.threshold_help")
        )
        name = name if name in names else usual
        colormap = choose_colormap()
        sigma, grey = _residual_view() if name == "residual" else (None, False)
    absolute = panels.TOP * max(bundle.scale(m, "residual") for m in (settings.method, *bundle.rivals))
    return panels.View(
        map=name,
        threshold=threshold,
        sigma=sigma,
        grey=absolute if grey else 0.0,
        colormap=colormap,
    )


def choose_colormap() -> str:
    """A scale that colour-blind people can read, or the article's."""
    return choose_one(t("view.colormap"), "colours", COLORMAPS, lambda name: label(f"colours.{name}"))


def offered_rivals(bundle: Bundle) -> tuple[str, ...]:
    """What Ano-Unet can be compared with: the bundle's own rivals, and the one that needs its data alone."""
    remembers = bundle.local is not None and models.has_data(bundle)
    return (*bundle.rivals, NEAREST) if remembers else bundle.rivals


def choose_rivals(bundle: Bundle, offered: tuple[str, ...]) -> tuple[str, ...]:
    """Those that Ano-Unet is compared with, any number of them; no question where there is one alone."""
    if offered == bundle.rivals and len(offered) == 1:
        return offered
    accept_plain("against", offered, label)
    chosen = st.segmented_control(
        t("rival.choose"),
        offered,
        selection_mode="multi",
        default=bundle.rivals[:1],
        format_func=label,
        key="against",
        bind="query-params",
    )
    return tuple(name for name in offered if name in chosen)


def _residual_view() -> tuple[float | None, bool]:
    """What can be chosen for abs(x − y) alone: its smoothing, and grey levels as its unit."""
    sigmas = ["", *(f"{sigma:g}" for sigma in panels.SIGMAS)]
    accept_plain("sigma", sigmas, sigma_label)
    sigma = st.selectbox(
        t("view.sigma"),
        sigmas,
        key="sigma",
        bind="query-params",
        format_func=sigma_label,
        help=t("view.sigma_help"),
        width=150,
    )
    unit = choose_one(t("view.unit"), "unit", UNITS, unit_label, help=t("view.unit_help"))
    return (float(sigma) if sigma in sigmas[1:] else None), unit == "grey"


def sigma_label(value: str) -> str:
    return t("view.sigma_px", n=value) if value else t("view.sigma_usual")


def unit_label(name: str) -> str:
    return t("view.unit_grey") if name == "grey" else t("view.unit_normal")


def source_label(name: str) -> str:
    return t("images.upload") if name == "upload" else t("images.samples")


def choose_source() -> str:
    """Where images come from: `samples` or `upload`."""
    return choose_one(t("images.source"), "source", SOURCES, source_label)


def part_label(name: str) -> str:
    return label(f"part.{name}")


def map_label(name: str) -> str:
    return label(f"map.{name}")


def threshold_label(name: str) -> str:
    return label(f"threshold.{name}")


# --- pictures ----------------------------------------------------------------------------------------


def most_pictures(size: int) -> int:
    """How many pictures one request may hold, so that their results fit into memory."""
    return max(2, min(MAX_PICTURES, PICTURE_BYTES // ((6 + len(MAPS) + 7) * 4 * size * size)))


def choose_pictures(bundle: Bundle, restored: tuple[Picture, ...] = ()) -> tuple[Picture, ...]:
    """Samples or uploads; `restored` are the uploads of a job that the link names, shown after a refresh."""
    return uploaded(bundle.size, restored) if choose_source() == "upload" else picked_samples(bundle)


def sample_pictures(bundle: Bundle, page: int, good: int = 2, bad: int = 8) -> dict[str, Picture]:
    """Sample id (its defect or class, numbered where it repeats) → picture.

    Raises:
        DataError: the bundle's data set is not on this machine.
    """
    found: dict[str, Picture] = {}
    for sample in models.samples(models.choice(bundle), page, good, bad):
        base = sample.group or "good"
        known, number = base, 2
        while known in found:
            known, number = f"{base}-{number}", number + 1
        found[known] = Picture(sample.name, content_hash(sample.pixels), sample.pixels)
    return found


def picked_samples(bundle: Bundle) -> tuple[Picture, ...]:
    """Samples of the bundle's test split; several can be chosen, and others drawn."""
    page = int(clamp(st.session_state.get("_sample_page", 0), 0, 10_000, 0))
    try:
        found = sample_pictures(bundle, page)
    except DataError as error:
        st.info(t("images.no_samples", reason=plain(str(error))), icon=":material/folder_off:")
        return ()
    cells = [
        panels.figure(picture.pixels, label(known), alt=t("alt.original", name=label(known)))
        for known, picture in found.items()
    ]
    st.html(panels.grid(cells, "au-small"))
    first = DEFAULT_SAMPLE if DEFAULT_SAMPLE in found else next(iter(found), None)
    accept_plain("samples", list(found), label)
    chosen = st.pills(
        t("images.choose"),
        list(found),
        selection_mode="multi",
        default=[first] if first else [],
        format_func=label,
        key="samples",
        bind="query-params",
        wrap=True,
    )
    st.button(t("images.others"), key="other_samples", icon=":material/shuffle:", on_click=_next_page)
    return tuple(found[known] for known in found if known in chosen)


def _next_page() -> None:
    st.session_state["_sample_page"] = st.session_state.get("_sample_page", 0) + 1


def uploaded(size: int, restored: tuple[Picture, ...] = ()) -> tuple[Picture, ...]:
    """Uploads so far, or those of a job that the link names."""
    handed_in = uploads.collect(
        "",
        size,
        most_pictures(size),
        caption=t("images.drop"),
        help=t("images.limits"),
        restored=restored,
    )
    for fault in handed_in.faults:
        st.warning(plain(fault), icon=":material/broken_image:")
    uploads.show(handed_in, "")
    return handed_in.pictures
