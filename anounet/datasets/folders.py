"""Image folders and ZIPs of classes: `<root>/{train,test}/<class>/*`, or `<root>/<class>/*`."""

from __future__ import annotations

from collections.abc import Iterator

from anounet.datasets.files import Entry, Files, FileSet, share
from anounet.datasets.image_set import DataError, Item

_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class FolderSet(FileSet):
    """One split of a folder, or of a ZIP, of images sorted into class folders. Nothing is unpacked.

    With `train/` and `test/` (and perhaps `val/`) folders, these are the splits; a missing validation split
    is a tenth of train, a missing test split is what `val/` holds. Without them the images are split
    70 / 10 / 20 by the hash of their names, so that an image stays in its split when others are added.

    Raises:
        DataError: no such file, not a ZIP, or no images in class folders.
    """

    kind = "classes"

    @classmethod
    def fits(cls, files: Files) -> bool:
        """Whether there are class folders, and fewer images beside them than in them.

        The one folder that all of a ZIP's images lie in is its wrapping, and no class.
        """
        return len(files.direct) < sum(1 for _ in _placed(files))

    def _sort_out(self, split: str) -> tuple[tuple[str, ...], list[Entry]]:
        placed = list(_placed(self.files))
        if not placed:
            raise DataError(
                f"'{self.path}' holds no images in class folders: "
                "put each class into a folder of its own, as in train/<class>/image.png."
            )
        given = {where for _, _, where, _ in placed if where}
        if given:  # then what lies beside the folders of splits belongs to none
            placed = [image for image in placed if image[2]]
        entries = [
            Entry(file, Item(relative, class_name))
            for file, relative, where, class_name in placed
            if split_of(relative, where, given) == split
        ]
        return tuple(sorted({class_name for *_, class_name in placed})), entries


def _placed(files: Files) -> Iterator[tuple[str, str, str | None, str]]:
    """(file, its name below the common top folder, the split that a folder names, class) of each image."""
    is_wrapped = files.top and files.top not in _FOLDERS and all(n.count("/") > 1 for n in files.images)
    skip = len(files.top) + 1 if is_wrapped else 0
    for file in files.images:
        relative = file[skip:]
        *folders, _ = relative.split("/")
        if len(folders) == 2 and folders[0] in _FOLDERS:
            yield file, relative, _FOLDERS[folders[0]], folders[1]
        elif len(folders) == 1:
            yield file, relative, None, folders[0]


def split_of(name: str, where: str | None, given: set[str]) -> str | None:
    """The split of an image, by the folder it lies in where any are given, else by its name.

    Args:
        name: the image's, below the common top folder.
        where: the split that its folder names, if it does.
        given: the splits that folders of the set name.
    """
    if not given:
        chance = share(name)
        return "train" if chance < 0.7 else "validation" if chance < 0.8 else "test"
    if where == "validation" and "test" not in given:
        return "test"
    validation_given = "validation" in given and "test" in given
    if where == "train" and not validation_given and share(name) < 0.1:
        return "validation"
    return where
