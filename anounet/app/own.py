"""Normal images that a visitor hands in, as files or a ZIP: decoded and shrunk at once."""

from __future__ import annotations

import os
import tempfile
import zipfile

import streamlit as st

from anounet.app import panels
from anounet.app.inputs import ENDINGS
from anounet.app.texts import plain, t
from anounet.app.work import Picture
from anounet.datasets import DataError
from anounet.datasets.files import Files
from anounet.images import ImageError, content_hash, decode

SIZES = (96, 128, 192, 256)
MAX_IMAGES = 500
SHOWN = 12  # thumbnails


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
    """Uploads so far; the files are let go as soon as they are decoded."""
    state = st.session_state
    kept: dict[str, Picture] = state.setdefault("_own", {})
    faults: list[str] = state.setdefault("_own_faults", [])
    if state.get("_own_size", size) != size and kept:
        kept.clear()
        faults[:] = [t("images.other_size", size=size)]
    state["_own_size"] = size
    number = state.setdefault("_own_number", 0)
    files = st.file_uploader(
        t("own.drop"),
        [*ENDINGS, "zip"],
        accept_multiple_files=True,
        key=f"own_upload_{number}",
        help=t("own.limits", n=MAX_IMAGES),
    )
    if files:
        faults.clear()
        with st.spinner(t("own.reading")):
            for file in files:
                if file.name.lower().endswith(".zip"):
                    take_zip(file.name, file.getvalue(), kept, faults, size)
                else:
                    take(file.name, file.getvalue(), kept, faults, size)
        state["_own_number"] = number + 1
        st.rerun()
    if faults:
        st.warning(t("own.left_out", n=len(faults)), icon=":material/broken_image:")
        for fault in faults[:5]:
            st.caption(plain(fault))
    if kept:
        st.markdown(t("own.count", n=len(kept)))
        cells = [
            panels.figure(picture.pixels, "", alt=t("alt.original", name=picture.name))
            for picture in list(kept.values())[:SHOWN]
        ]
        st.html(panels.grid(cells, "au-small"))
        st.button(
            t("images.remove", n=len(kept)), key="own_remove", icon=":material/delete:", on_click=forget
        )
    return tuple(kept.values())


def take(name: str, data: bytes, kept: dict[str, Picture], faults: list[str], size: int) -> None:
    """Keeps one image, or says why not."""
    if len(kept) >= MAX_IMAGES:
        sentence = t("own.too_many", n=MAX_IMAGES)
        if sentence not in faults:
            faults.append(sentence)
        return
    try:
        image = decode(data, name, size)
    except ImageError as error:
        faults.append(str(error))
        return
    known = content_hash(image.pixels)
    if known in kept:
        faults.append(t("images.twice", name=name, other=kept[known].name))
    else:
        kept[known] = Picture(name, known, image.pixels, image.note)


def take_zip(name: str, data: bytes, kept: dict[str, Picture], faults: list[str], size: int) -> None:
    """Keeps the images of a ZIP, whatever folders they lie in; it is unpacked nowhere."""
    handle, path = tempfile.mkstemp(suffix=".zip")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        files = Files(path)
        if not files.images:
            faults.append(t("own.empty_zip", name=name))
        for inside in files.images:
            try:
                content = files.read(inside)
            except ImageError:
                faults.append(t("own.bad_entry", name=name, inside=inside))
                continue
            take(inside, content, kept, faults, size)
            if len(kept) >= MAX_IMAGES:
                break
    except (DataError, zipfile.BadZipFile):
        faults.append(t("own.bad_zip", name=name))
    finally:
        os.unlink(path)


def forget() -> None:
    st.session_state["_own"], st.session_state["_own_faults"] = {}, []
