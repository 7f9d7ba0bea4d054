"""Images that a visitor hands in, as files or in ZIPs: decoded and shrunk at once, and the files let go."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import zipfile
from dataclasses import dataclass, field

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from anounet.app import frontend, models, panels
from anounet.app.texts import t
from anounet.app.work.answers import Picture
from anounet.datasets import DataError
from anounet.datasets.files import Files
from anounet.images import ImageError, content_hash, decode

_paste = frontend.component("paste")
PASTED = "pasted.png"  # the name of an image that has none
ENDINGS = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"]


@dataclass
class Uploads:
    """What a session has handed in for one purpose.

    Attributes:
        size: side that images are brought to, in pixels.
        most: how many are kept.
        kept: hash of the pixels → image.
        faults: a sentence for each file that was left out.
    """

    size: int
    most: int
    kept: dict[str, Picture] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(self.kept.values())

    def take(self, name: str, data: bytes) -> None:
        """Keeps one image, or says why not."""
        if len(self.kept) >= self.most:
            self.faults.append(t("images.too_many", name=name, n=self.most))
            return
        try:
            with models.decoding():
                image = decode(data, name, self.size)
        except ImageError as error:
            self.faults.append(str(error))
            return
        known = content_hash(image.pixels)
        if known in self.kept:
            self.faults.append(t("images.twice", name=name, other=self.kept[known].name))
        else:
            self.kept[known] = Picture(name, known, image.pixels, image.note)

    def take_zip(self, name: str, data: bytes) -> None:
        """Keeps the images of a ZIP, whatever folders they lie in; it is unpacked nowhere."""
        handle, path = tempfile.mkstemp(suffix=".zip")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            files = Files(path)
            if not files.images:
                self.faults.append(t("uploads.empty_zip", name=name))
            for number, inside in enumerate(files.images):
                if len(self.kept) >= self.most:
                    left = len(files.images) - number
                    self.faults.append(t("uploads.zip_full", name=name, n=left, most=self.most))
                    break
                try:
                    content = files.read(inside)
                except ImageError:
                    self.faults.append(t("uploads.bad_entry", name=name, inside=inside))
                else:
                    self.take(inside, content)
        except (DataError, zipfile.BadZipFile):
            self.faults.append(t("uploads.bad_zip", name=name))
        finally:
            os.unlink(path)

    def forget(self) -> None:
        self.kept.clear()
        self.faults.clear()


def collect(
    prefix: str,
    size: int,
    most: int,
    *,
    caption: str,
    help: str,
    zips: bool = False,
    pasting: bool = True,
    restored: tuple[Picture, ...] = (),
) -> Uploads:
    """Draws the field for files, and gives what was handed in so far; another size starts anew.

    Args:
        prefix: of the keys in the session.
        size: side that images are brought to, in pixels.
        most: how many are kept.
        zips: take ZIPs of images, too.
        pasting: Ctrl+V anywhere on the page is for this field; of several fields it is for one.
        restored: what a new session begins with, as far as it is of this size.
    """
    state, key, count = st.session_state, f"_{prefix}uploads", f"_{prefix}upload_number"
    if key not in state:
        state[key] = Uploads(size, most, {p.key: p for p in restored if len(p.pixels) == size})
    if state[key].size != size:
        faults = [t("images.other_size", size=size)] if state[key].kept else []
        state[key] = Uploads(size, most, faults=faults)
    uploads: Uploads = state[key]
    number = state.setdefault(count, 0)
    endings = [*ENDINGS, "zip"] if zips else ENDINGS
    field_key = f"{prefix}upload_{number}"  # a new field after each go, so that it is empty
    files = st.file_uploader(caption, endings, accept_multiple_files=True, key=field_key, help=help)
    pasted, photo = _pasted(prefix, number, pasting), _photo(prefix, number)
    if files or pasted or photo:
        uploads.faults.clear()
        with st.spinner(t("uploads.reading")):
            for file in files:
                take = uploads.take_zip if zips and file.name.lower().endswith(".zip") else uploads.take
                take(file.name, file.getvalue())
                _forget_file(file)
            for name, data in pasted:
                uploads.take(name, data)
            if photo is not None:
                uploads.take(f"photo-{len(uploads.kept) + 1}.png", photo.getvalue())
                _forget_file(photo)
        state[count] = number + 1
        st.rerun()
    return uploads


def _pasted(prefix: str, number: int, everywhere: bool) -> list[tuple[str, bytes]]:
    """Images from the clipboard, by their names."""
    words = {
        "paste": t("paste.paste"),
        "none": t("paste.none"),
        "refused": t("paste.refused"),
        "name": PASTED,
    }
    key = f"{prefix}paste_{number}"
    given = _paste(key=key, data={"words": words, "everywhere": everywhere}, on_pasted_change=lambda: None)
    found = []
    for image in (given.pasted or {}).get("images", ()):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # it comes from the browser
            found.append((str(image["name"]), base64.b64decode(image["data"], validate=True)))
    return found


def _photo(prefix: str, number: int) -> UploadedFile | None:
    """A photo by the camera, which is asked for only when it is wanted."""
    if not st.toggle(t("camera.use"), key=f"{prefix}camera", help=t("camera.help")):
        return None
    return st.camera_input(t("camera.take"), key=f"{prefix}photo_{number}")


def _forget_file(file: UploadedFile) -> None:
    """Streamlit would keep its bytes until the visitor leaves."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def show(uploads: Uploads, prefix: str, most: int | None = None) -> None:
    """Small pictures of what was handed in, `most` of them, and a button that lets go of all."""
    if not uploads.kept:
        return
    cells = [panels.figure(p.pixels, "", alt=t("alt.original", name=p.name)) for p in uploads.pictures[:most]]
    st.html(panels.grid(cells, "au-small"))
    st.button(
        t("images.remove", n=len(uploads.kept)),
        key=f"{prefix}remove",
        icon=":material/delete:",
        on_click=uploads.forget,
    )
