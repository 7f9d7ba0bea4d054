"""Choosing images to learn from: a data set, its normal class, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import streamlit as st

from anounet.app import models, panels
from anounet.app.inputs import accept_plain, clamp
from anounet.app.texts import label, plain, t
from anounet.app.work import centers
from anounet.bundle import Bundle
from anounet.datasets import DataError
from anounet.metric_learning import FNetSettings
from anounet.prepare import DataChoice
from anounet.presets import PRESETS, Preset

SIZES = (32, 64, 96, 128, 192, 256)
SHOWN_CLASSES = 12
MIN_LIMIT, MAX_LIMIT = 20, 100_000


def choose_data() -> DataChoice | None:
    """The images F learns from; None, with a sentence on the page, where they cannot be had."""
    names = models.data_names()
    offer_presets(names)
    accept_plain("data", names, label)
    data = st.selectbox(
        t("data.set"), names, key="data", bind="query-params", format_func=label, help=t("data.help")
    )
    try:
        with st.spinner(t("data.reading")):
            counts = models.class_counts(data)
    except DataError as error:
        st.error(plain(str(error)), icon=":material/folder_off:")
        return None
    accept_plain("normal", list(counts), label)
    normal = st.selectbox(
        t("data.normal"),
        list(counts),
        key="normal",
        bind="query-params",
        format_func=label,
        index=list(counts).index(DataChoice.normal) if DataChoice.normal in counts else 0,
        help=t("data.normal_help"),
    )
    others = [name for name in counts if name != normal]
    exclude = st.multiselect(
        t("data.exclude"),
        others,
        key=f"exclude_{data}_{normal}",
        format_func=label,
        help=t("data.exclude_help"),
    )
    reference = st.selectbox(
        t("data.reference"),
        ["", *(name for name in names if name != data)],
        key="reference",
        format_func=lambda name: label(name) if name else t("data.no_reference"),
        help=t("data.reference_help"),
    )
    st.session_state.setdefault("limit", DataChoice.limit)
    with st.container(horizontal=True):
        asked = st.number_input(
            t("data.limit"), MIN_LIMIT, MAX_LIMIT, key="limit", step=500, help=t("data.limit_help")
        )
        size = st.selectbox(
            t("data.size"), SIZES, index=SIZES.index(DataChoice.size), key="size", help=t("data.size_help")
        )
    limit = int(clamp(asked, MIN_LIMIT, MAX_LIMIT, DataChoice.limit))
    learned = [name for name in counts if name not in exclude]
    count = min(limit, sum(counts[name] for name in learned))
    if reference:
        with st.spinner(t("data.reading")):
            count += min(limit, sum(models.class_counts(reference).values()))
    st.markdown(t("data.count", n=f"{count:,}", classes=len(learned), normal=f"{counts[normal]:,}"))
    show_thumbnails(data, normal, others, exclude)
    if len(learned) < 2 and not reference:
        st.warning(t("data.too_few"))
        return None
    return DataChoice(data, normal, tuple(exclude), limit, reference or None, size)


def offer_presets(names: list[str]) -> None:
    """A button for each preset, and what is missing where its data is not here.

    Args:
        names: the data sets that are here.
    """
    with st.container(horizontal=True):
        for preset in PRESETS.values():
            st.button(
                label(f"preset.{preset.name}"),
                key=f"preset_{preset.name}",
                disabled=preset.data not in names,
                on_click=_use_preset,
                args=(preset,),
            )
    for preset in PRESETS.values():
        missing = "" if preset.data in names else preset.missing()
        if missing:
            st.caption(plain(missing))


def _use_preset(preset: Preset) -> None:
    state = st.session_state
    state["data"], state["normal"], state["limit"] = preset.data, preset.normal, preset.f_net_images
    state[f"exclude_{preset.data}_{preset.normal}"] = list(preset.exclude)
    # The training beside the data is the preset's too; the widgets' keys are those of `f_net_forms`.
    training = FNetSettings(**preset.f_net).resolved()
    state["epochs"], state["rate"], state["frozen"] = (
        training.epochs,
        training.learning_rate,
        training.frozen_blocks,
    )


def show_thumbnails(data: str, normal: str, others: list[str], exclude: list[str]) -> None:
    """A few pictures of each class: the normal one first, then those left out."""
    ordered = [normal, *exclude, *(name for name in others if name not in exclude)]
    cells = []
    try:
        for name in ordered[:SHOWN_CLASSES]:
            role = t("data.is_normal") if name == normal else t("data.is_out") if name in exclude else ""
            pictures = models.thumbnails(data, name)
            if pictures:
                alt = t("alt.class", n=len(pictures), name=label(name))
                cells.append(panels.figure(mosaic(pictures), label(name), role, alt))
    except DataError as error:
        st.error(plain(str(error)), icon=":material/broken_image:")
        return
    st.html(panels.grid(cells, "au-classes"))
    if len(ordered) > SHOWN_CLASSES:
        st.caption(t("data.more_classes", n=len(ordered) - SHOWN_CLASSES))


def mosaic(pictures: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures of one size side by side in a square, on white: uint8 (H, H, 3)."""
    across = math.ceil(math.sqrt(len(pictures)))
    step = len(pictures[0]) + gap
    square = np.full((across * step - gap, across * step - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        square[row * step : (row + 1) * step - gap, column * step : (column + 1) * step - gap] = picture
    return square


def choose_class(bundle: Bundle) -> tuple[DataChoice, int] | None:
    """The normal class and how many images it has; None, with a sentence, where they cannot be had."""
    try:
        own = models.choice(bundle)
        with st.spinner(t("data.reading")):
            counts = models.class_counts(own.data)
    except DataError as error:
        st.info(plain(str(error)), icon=":material/folder_off:")
        return None
    classes = list(counts)
    normal = st.selectbox(
        t("data.normal"),
        classes,
        index=classes.index(own.normal) if own.normal in classes else 0,
        key=f"center_normal_{bundle.name}",
        format_func=label,
        help=t("center.normal_help"),
    )
    return centers.center_choice(bundle.name, normal), counts[normal]
