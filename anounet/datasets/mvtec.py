"""The layout of MVTec AD: `<category>/train/good`, `<category>/test/<defect>`, `<category>/ground_truth`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from anounet.datasets.files import Entry, Files
from anounet.datasets.image_set import DataError, Item
from anounet.datasets.masks import MaskedSet

GOOD = "good"

_PLACE = re.compile(r"(?:([^/]+)/)?(train|test|ground_truth)/([^/]+)/([^/]+)")


class MvtecSet(MaskedSet):
    """One split of a folder, or of a ZIP, in the layout of MVTec AD (Bergmann et al., CVPR 2019).

    The root holds categories, or is one itself and gives it its name; a category is a class. "train" is all
    of `train/good/`, "test" all of `test/`, an image's defect being its folder's name. The layout has no
    validation images: "validation" is empty, and settings have to be chosen on other data. Masks are
    `ground_truth/<defect>/NNN_mask.png` or `NNN.png`; a defective image without one has no mask, and its
    split is then good for figures by image alone.

    Raises:
        DataError: no such file, not a ZIP, or another layout.
    """

    kind = "mvtec"

    @classmethod
    def fits(cls, files: Files) -> bool:
        """Whether train holds good images and nothing else, and there is a test: else these are classes."""
        folders = {(part, folder) for _, _, part, folder, _ in _placed(files) if part != "ground_truth"}
        train = {folder for part, folder in folders if part == "train"}
        return train == {GOOD} and any(part == "test" for part, _ in folders)

    def _sort_out(self, split: str) -> tuple[tuple[str, ...], list[Entry]]:
        if not self.fits(self.files):
            raise DataError(
                f"'{self.path}' is not in the layout of MVTec AD: normal images belong into "
                "<category>/train/good, and test images into <category>/test/<defect>."
            )
        placed = list(_placed(self.files))
        masks = {
            (category, folder, os.path.splitext(name)[0].removesuffix("_mask")): file
            for file, category, part, folder, name in placed
            if part == "ground_truth"
        }
        entries = []
        for file, category, part, folder, name in placed:
            if part == split:
                item = Item(f"{category}/{part}/{folder}/{name}", category, "" if folder == GOOD else folder)
                mask = masks.get((category, folder, os.path.splitext(name)[0]))
                entries.append(Entry(file, item, mask))
        categories = {category for _, category, part, *_ in placed if part != "ground_truth"}
        return tuple(sorted(categories)), entries


def _placed(files: Files) -> Iterator[tuple[str, str, str, str, str]]:
    """(file, category, train, test or ground_truth, the folder in it, name) of each image."""
    if not any("train/good/" in name for name in files.images):
        return  # quick, where there are many other files
    for start in files.starts:
        matches = [(name, _PLACE.fullmatch(name, start)) for name in files.images]
        found = [(name, match) for name, match in matches if match]
        for file, match in found:
            category, part, folder, name = match.groups()
            yield file, category or files.title, part, folder, name
        if found:
            return
