"""A folder, or a ZIP, of normal images and nothing else."""

from __future__ import annotations

from anounet.datasets.files import Entry, Files, FileSet
from anounet.datasets.image_set import DataError, Item


class PlainSet(FileSet):
    """Images that lie directly in a folder, or in a ZIP or its one wrapping folder: one class of normal ones.

    The class has the folder's or the ZIP's name. All images are in "train"; "validation" and "test" are
    empty, and no masks are known. A damaged image is met when it is read: see `readable`.

    Raises:
        DataError: no such file, not a ZIP, or no images directly inside.
    """

    kind = "plain"

    @classmethod
    def fits(cls, files: Files) -> bool:
        return bool(files.direct)

    def _sort_out(self, split: str) -> tuple[tuple[str, ...], list[Entry]]:
        if not self.files.direct:
            raise DataError(f"'{self.path}' holds no images directly inside: put the normal images there.")
        class_name = self.files.title
        if split != "train":
            return (class_name,), []
        items = [Item(file.rpartition("/")[2], class_name) for file in self.files.direct]
        return (class_name,), list(map(Entry, self.files.direct, items))
