"""The files of a folder or a ZIP, and what all data sets made of files share. Nothing is ever unpacked."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from anounet.datasets.image_set import DataError, ImageSet, Item, check_split
from anounet.images import ENDINGS, FORMATS, MAX_BYTES, MAX_PIXELS, ImageError, decode

MAX_FILES = 1_000_000
# What a ZIP may say that it unpacks to, the larger of both. Images hardly compress: more of it is a bomb.
MAX_UNPACKED = 4 * 2**30  # bytes
MAX_RATIO = 50  # times the ZIP's own bytes
_ORIENTATION_TAG = 0x0112  # EXIF 2.3; 5 to 8 lie on their side


class Files:
    """The files below a folder, or in a ZIP, by name: "train/cat/1.png". Hidden ones are left out.

    Attributes:
        path: the folder or the ZIP.
        zipped: whether it is a ZIP.
        names: all names, sorted.
        images: those of them that end as images do.
        top: the one folder that holds all the images, "" if there is no such folder.
        direct: the images that lie in no folder, or in nothing but a ZIP's wrapping.

    Raises:
        DataError: neither a folder nor a ZIP that can be read, or too many files in it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._root = Path(os.path.abspath(path))  # they may be read from another working folder
        self.zipped = self.path.is_file()
        if self.zipped:
            self.names = _zip_names(self._root, *mark_of(self._root))
        elif self.path.is_dir():
            self.names = _folder_names(self.path)
        else:
            raise DataError(f"'{self.path}' is neither a folder nor a ZIP: check the path.")
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._entries: dict[str, zipfile.ZipInfo] = {}

    @cached_property
    def images(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if is_image(name))

    @cached_property
    def top(self) -> str:
        tops = {name.partition("/")[0] if "/" in name else "" for name in self.images}
        return tops.pop() if len(tops) == 1 else ""

    @property
    def starts(self) -> tuple[int, ...]:
        """Where in the names a layout may begin: at once, or inside of one wrapping folder."""
        return (0, len(self.top) + 1) if self.top else (0,)

    @cached_property
    def direct(self) -> tuple[str, ...]:
        start = self.starts[-1] if self.zipped else 0
        return tuple(name for name in self.images if "/" not in name[start:])

    @property
    def title(self) -> str:
        """What the folder or the ZIP is called, without .zip."""
        return self._root.stem if self.zipped else self._root.name

    def full(self, name: str) -> str:
        """What to call a file in messages: its path, or its name in the ZIP."""
        return name if self.zipped else str(self.path / name)

    def read(self, name: str, most: int = MAX_BYTES) -> bytes:
        """The file's bytes, at most one more than `most`: a compressed bomb ends there.

        Raises:
            ImageError: it is gone, damaged, encrypted or not to be read.
        """
        if not self.zipped:
            try:
                with open(self._root / name, "rb") as file:
                    return file.read(most + 1)
            except OSError as error:
                raise ImageError(
                    f"{self.full(name)} cannot be read ({error.strerror}): "
                    "check the file and its permissions."
                ) from error
        try:
            with self._lock, self._opened().open(self._entry(name)) as entry:
                return entry.read(most + 1)
        except Exception as error:  # zipfile raises a dozen kinds on damaged or encrypted entries
            raise ImageError(f"{name} cannot be read from '{self.path}' ({error}): pack it anew.") from error

    def absolute(self, name: str) -> Path:
        """Where the file's bytes lie, whatever the working folder is: its path, or that of the ZIP."""
        return self._root if self.zipped else self._root / name

    def length(self, name: str) -> int:
        """The file's bytes, uncompressed, as the folder or the ZIP says.

        Raises:
            ImageError: it is gone, or the ZIP cannot be read.
        """
        try:
            if self.zipped:
                with self._lock:
                    return self._entry(name).file_size
            return self.absolute(name).stat().st_size
        except Exception as error:  # as in `read`
            raise ImageError(f"{self.full(name)} is not to be found in '{self.path}' any more.") from error

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None:  # opened late: a set that is only listed needs no second look
            self._archive = zipfile.ZipFile(self._root)
            self._entries = {_entry_name(entry): entry for entry in self._archive.infolist()}
        return self._archive

    def _entry(self, name: str) -> zipfile.ZipInfo:
        self._opened()
        return self._entries[name]

    def decode(self, name: str, size: int) -> np.ndarray:
        """The image resized: uint8 (size, size, 3); see `images.decode`."""
        return decode(self.read(name), self.full(name), size).pixels

    def size_of(self, name: str) -> tuple[int, int]:
        """Width and height of an image standing upright, in pixels, by its header alone.

        Raises:
            ImageError: no readable image, or more than `MAX_PIXELS`.
        """
        try:
            with Image.open(BytesIO(self.read(name)), formats=FORMATS) as image:
                return upright_size(image, self.full(name))
        except ImageError:
            raise
        except Exception as error:  # Pillow, too, raises a dozen kinds
            raise ImageError(
                f"{self.full(name)} is no image that can be read: save or copy it again."
            ) from error


class Entry(NamedTuple):
    """An image of a split: its file, what is known of it, and what its mask is made from, if anything."""

    file: str
    item: Item
    mask: Any = None


class FileSet(ImageSet):
    """One split of a data set that lies in a folder or a ZIP; a subclass knows one layout.

    Args:
        path: the folder or the ZIP, or its files where they have been listed.
        split: "train", "validation" or "test".
        name: what to call the set; the folder's or the ZIP's name by default.

    Raises:
        DataError: unknown split, nothing to read at `path`, or files in another layout.
    """

    def __init__(self, path: Path | str | Files, split: str, name: str | None = None) -> None:
        self.split = check_split(split)
        self.files = path if isinstance(path, Files) else Files(path)
        self.path = self.files.path
        self.name = name or self.files.title
        self.classes, self._entries = self._sort_out(split)
        self.items = [entry.item for entry in self._entries]

    @classmethod
    @abstractmethod
    def fits(cls, files: Files) -> bool:
        """Whether the files lie in this layout; none of them is read."""

    @abstractmethod
    def _sort_out(self, split: str) -> tuple[tuple[str, ...], Sequence[Entry]]:
        """The classes of all splits, and the images of this one.

        Raises:
            DataError: the files do not lie in this layout.
        """

    def pixels(self, index: int, size: int) -> np.ndarray:
        return self.files.decode(self._entries[index].file, size)


def mark_of(path: Path) -> tuple[int, ...]:
    """Time of change, size and inode: while they are the same, so is the file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name[name.rfind(".") :].lower() in ENDINGS


def share(name: str) -> float:
    """A number in [0, 1) that a name fixes: its image stays in its split when others are added."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    """Width and height of an opened image once turned as its EXIF says, in pixels.

    Raises:
        ImageError: more than `MAX_PIXELS`.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels: make it smaller and try again."
        )
    # Pillow turns a TIFF itself; a PNG without EXIF in its header would be decoded whole to look for more.
    on_its_side = "exif" in image.info and image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    return (height, width) if on_its_side else (width, height)


@lru_cache(maxsize=8)  # a listing of all sets asks for the same ZIP four times
def _zip_names(path: Path, changed: int, size: int, number: int) -> tuple[str, ...]:
    """The names in a ZIP, sorted; the file's time of change, size and inode say whether they still hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"'{path}' is not a ZIP file that can be read: {error}.") from error
    if len(entries) > MAX_FILES:
        raise _too_many(path)
    if sum(entry.file_size for entry in entries) > max(MAX_UNPACKED, MAX_RATIO * size):
        raise DataError(
            f"'{path}' would unpack to more than {MAX_RATIO} times its size: it is damaged or made to fill "
            "disks, and was not opened."
        )
    names = {_entry_name(entry) for entry in entries if not entry.is_dir()}
    return tuple(sorted(name for name in names if not _is_hidden(name)))


def _is_hidden(name: str) -> bool:
    """Whether a file lies in a hidden folder, is one itself, or lies outside: "../x", "/x"."""
    return name.startswith("/") or "/." in f"/{name}" or "/__MACOSX" in f"/{name}"


def _entry_name(entry: zipfile.ZipInfo) -> str:
    """An entry's name with plain slashes: some packers write "./a/b" or "a\\b"."""
    return entry.filename.replace("\\", "/").removeprefix("./")


def _folder_names(folder: Path) -> tuple[str, ...]:
    """The names of the regular files below a folder, sorted."""
    names = []
    for name in _walk(folder, ""):
        names.append(name)
        if len(names) > MAX_FILES:
            raise _too_many(folder)
    return tuple(sorted(names))


def _walk(folder: Path | str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be searched ({error.strerror}): check its permissions."
        ) from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):  # a link to a folder above would never end
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name


def _too_many(path: Path) -> DataError:
    return DataError(f"'{path}' holds more than {MAX_FILES} files: split it up.")
