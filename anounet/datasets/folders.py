"""Image folders and ZIPs of classes: `<root>/{train,test}/<class>/*`, or `<root>/<class>/*`."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from anounet.datasets.image_set import SPLITS, DataError, ImageSet, Item
from anounet.images import ENDINGS, MAX_BYTES, ImageError, decode, decode_file

_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
MAX_FILES = 1_000_000


class FolderSet(ImageSet):
    """One split of a folder, or of a ZIP, of images sorted into class folders. Nothing is unpacked.

    With `train/` and `test/` (and perhaps `val/`) folders, these are the splits; a missing validation split
    is a tenth of train, a missing test split is what `val/` holds. Without them the images are split
    70 / 10 / 20 by the hash of their names, so that an image stays in its split when others are added.

    Raises:
        DataError: no such file, not a ZIP, or no images in class folders.
    """

    def __init__(self, path: Path | str, split: str, name: str | None = None) -> None:
        if split not in SPLITS:
            raise DataError(f"Unknown split '{split}': choose one of {', '.join(SPLITS)}.")
        self.path, self.split = Path(path), split
        self.name = name or self.path.stem
        self._archive: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        names = self._zip_names() if self.path.is_file() else self._folder_names()
        sorted_out = _sort_out(names)
        if not sorted_out:
            raise DataError(
                f"'{self.path}' holds no images in class folders: "
                "put each class into a folder of its own, as in train/<class>/image.png."
            )
        self.classes = tuple(sorted({item.class_name for _, item in sorted_out.values()}))
        chosen = {file: item for file, (where, item) in sorted_out.items() if where == split}
        self._files = list(chosen)
        self.items = list(chosen.values())

    def _zip_names(self) -> list[str]:
        try:
            self._archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"'{self.path}' is not a ZIP file that can be read: {error}.") from error
        entries = self._archive.infolist()
        if len(entries) > MAX_FILES:
            raise DataError(f"'{self.path}' holds more than {MAX_FILES} files: split it up.")
        return sorted(entry.filename for entry in entries if not entry.is_dir())

    def _folder_names(self) -> list[str]:
        if not self.path.is_dir():
            raise DataError(f"'{self.path}' is neither a folder nor a ZIP: check the path.")
        found = (file for file in self.path.rglob("*") if file.suffix.lower() in ENDINGS)
        return sorted(file.relative_to(self.path).as_posix() for file in found)

    def pixels(self, index: int, size: int) -> np.ndarray:
        file = self._files[index]
        if self._archive is None:
            return decode_file(self.path / file, size).pixels
        try:
            with self._lock, self._archive.open(file) as entry:
                data = entry.read(MAX_BYTES + 1)  # a compressed bomb ends here; decode refuses what is larger
        except Exception as error:  # zipfile raises a dozen kinds on damaged or encrypted entries
            raise ImageError(f"{file} cannot be read from '{self.path}' ({error}): pack it anew.") from error
        return decode(data, file, size).pixels


def _sort_out(names: Iterable[str]) -> dict[str, tuple[str, Item]]:
    """File → (split, item) for the images that lie in class folders."""
    images = [
        path
        for path in map(PurePosixPath, names)
        if path.suffix.lower() in ENDINGS
        and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
    ]
    tops = {path.parts[0] for path in images}
    skip = 1 if len(tops) == 1 and not tops & _FOLDERS.keys() and all(len(p.parts) > 2 for p in images) else 0
    placed: list[tuple[PurePosixPath, str | None, str]] = []
    for path in images:
        folders = path.parts[skip:-1]
        if folders and folders[0] in _FOLDERS and len(folders) == 2:
            placed.append((path, _FOLDERS[folders[0]], folders[1]))
        elif len(folders) == 1:
            placed.append((path, None, folders[0]))
    given = {split for _, split, _ in placed if split}
    result = {}
    for path, split, class_name in placed:
        relative = "/".join(path.parts[skip:])
        share = int.from_bytes(hashlib.sha256(relative.encode()).digest()[:4], "big") / 2**32
        if given:
            split = _within_given(split, given, share)
        else:
            split = "train" if share < 0.7 else "validation" if share < 0.8 else "test"
        if split:
            result[str(path)] = (split, Item(relative, class_name))
    return result


def _within_given(split: str | None, given: set[str], share: float) -> str | None:
    if split == "validation" and "test" not in given:
        return "test"
    validation_given = "validation" in given and "test" in given
    if split == "train" and not validation_given and share < 0.1:
        return "validation"
    return split
