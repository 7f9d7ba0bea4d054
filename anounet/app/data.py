"""Choosing images to learn from: a data set, its normal class, and what is left out."""

from __future__ import annotations

import contextlib

import streamlit as st

from anounet.app import models, panels
from anounet.app.inputs import accept_plain, clamp
from anounet.app.texts import label, plain, t
from anounet.app.work import centers
from anounet.bundle import Bundle
from anounet.datasets import DataError
from anounet.images import ImageError
from anounet.prepare import DataChoice

SIZES = (32, 64, 96, 128, 192, 256)
MIN_LIMIT, MAX_LIMIT = 20, 100_000


def choose_data() -> DataChoice | None:
    """The images F learns from; None, with a sentence on the page, where they cannot be had."""
    names = models.data_names()
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


def show_thumbnails(data: str, normal: str, others: list[str], exclude: list[str]) -> None:
    """A picture of each class, the normal one first."""
    cells = []
    for name in [normal, *exclude, *(name for name in others if name not in exclude)][:12]:
        role = t("data.is_normal") if name == normal else t("data.is_out") if name in exclude else ""
        with contextlib.suppress(ImageError):  # a training names the damaged file; here it is just not shown
            for pixels in models.thumbnails(data, name):
                cells.append(panels.figure(pixels, label(name), role, t("alt.original", name=label(name))))
    st.html(panels.grid(cells, "au-small"))


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
