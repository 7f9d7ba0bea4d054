"""Normal images that a visitor hands in, as files or a ZIP, and the bundles that were made of such images."""

from __future__ import annotations

import streamlit as st

from anounet.app import components, models, uploads
from anounet.app.texts import plain, t
from anounet.app.work import centers
from anounet.app.work.answers import Picture
from anounet.storage import WeightsError

SIZES = (96, 128, 192, 256)
MAX_IMAGES = 500
SHOWN = 12  # thumbnails
SHOWN_FAULTS = 5


def choose_size() -> int:
    """The side that images are brought to, in pixels."""
    size = st.segmented_control(
        t("own.size"),
        SIZES,
        default=SIZES[0],
        required=True,
        format_func=lambda side: t("own.pixels", n=side),
        key="own_size",
        help=t("own.size_help"),
    )
    return size if size in SIZES else SIZES[0]


def choose_images(size: int) -> tuple[Picture, ...]:
    """Images handed in so far."""
    handed_in = uploads.collect(
        "own_", size, MAX_IMAGES, caption=t("own.drop"), help=t("own.limits", n=MAX_IMAGES), zips=True
    )
    if handed_in.faults:
        st.warning(t("own.left_out", n=len(handed_in.faults)), icon=":material/broken_image:")
        for fault in handed_in.faults[:SHOWN_FAULTS]:
            st.caption(plain(fault))
    if handed_in.kept:
        st.markdown(t("own.count", n=len(handed_in.kept)))
    uploads.show(handed_in, "own_", SHOWN)
    return handed_in.pictures


def show_bundles() -> None:
    """The bundles that were made of own images, and a way to delete one that no job needs."""
    state, names = st.session_state, centers.own_bundles()
    said = state.pop("_own_said", None)
    if said:
        st.info(said, icon=":material/delete:")
    if not names:
        return
    if state.get("own_bundle") not in names:
        state.pop("own_bundle", None)
    with st.expander(t("own.bundles", n=len(names), most=centers.MAX_OWN), icon=":material/inventory_2:"):
        name = st.selectbox(t("own.which"), names, key="own_bundle")
        with st.popover(t("own.delete"), icon=":material/delete:"):
            st.markdown(t("own.sure", name=plain(name)))
            st.button(t("own.delete_now"), key="own_delete", type="primary", on_click=_delete, args=(name,))


def _delete(name: str) -> None:
    said = t("own.deleted", name=plain(name))
    try:
        if not models.jobs().unless_used(name, lambda: centers.delete_own(name)):
            said = t("own.in_use", name=plain(name))
    except (WeightsError, OSError) as error:
        said = components.sentence(error)
    models.forget_data()  # another bundle of that name would have its images in the same folder
    st.session_state["_own_said"] = said
