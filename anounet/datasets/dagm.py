"""DAGM 2007, textured surfaces with weakly labelled defects: the 10-class and the competition version."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from anounet.datasets.files import Entry, Files, is_image, share
from anounet.datasets.image_set import DataError, Item
from anounet.datasets.masks import Ellipse, MaskedSet
from anounet.images import ImageError

DEFECT = "defect"

TRAIN_GOOD = 400  # good images of a class that come without a split of their own, for train …
MIN_REST = 80  # … unless fewer than these would be left: then four fifths

# The folder of a class may itself be the root, and Train/ and Test/ then lie there.
_TEN_CLASS = re.compile(r"(?:(Class\d+)/)?(Train|Test)/(Label/)?([^/]+)")
_COMPETITION = re.compile(r"(Class\d+)(_def)?/([^/]+)")
_LABELS = "labels.txt"


class DagmSet(MaskedSet):
    """One split of DAGM 2007 from a folder or a ZIP, in either of its versions.

    10-class: `[DAGM2007/]ClassN/{Train,Test}/0576.PNG`, with `Label/Labels.txt` and `Label/0576_label.PNG`.
    Competition: `ClassN/1.png`, all good, and `ClassN_def/1.png`, with ellipses in `ClassN_def/labels.txt`.

    Splits, for each class:
      - With both Train and Test, "test" is Test; "train" is the good images of Train less a tenth, drawn by
        the hash of their names; "validation" is that tenth and the defective images of Train.
      - With one of them only, and in the competition version, images are put in the order of the SHA-256 of
        their names. Of the good ones "train" is the first 400, or four fifths where that would leave fewer
        than 80; of the rest, and of the defective ones, "validation" is the first third and "test" what
        remains. No pixel is looked at.
    "validation" is for choosing settings, "test" for reporting what they reach; "train" has no defects.

    Raises:
        DataError: no such file, not a ZIP, another layout, or labels that are missing or damaged.
    """

    kind = "dagm"

    @classmethod
    def fits(cls, files: Files) -> bool:
        return bool(_groups(files))

    def _sort_out(self, split: str) -> tuple[tuple[str, ...], list[Entry]]:
        groups = _groups(self.files)
        if not groups:
            raise DataError(
                f"'{self.path}' is not in a layout of DAGM 2007: images belong into ClassN/Train and "
                "ClassN/Test, or into ClassN and ClassN_def."
            )
        entries: list[Entry] = []
        classes = tuple(sorted(groups, key=lambda name: (len(name), name)))  # Class2 before Class10
        for parts in map(groups.__getitem__, classes):
            labelled = {part: list(_labelled(self.files, group)) for part, group in parts.items()}
            if {"Train", "Test"} <= parts.keys():
                chosen = _given_split(labelled, split)
            else:
                chosen = _drawn_split([entry for part in labelled.values() for entry in part], split)
            entries += sorted(chosen, key=lambda entry: entry.item.name)
        return classes, entries


@dataclass
class _Group:
    """One folder of images."""

    class_name: str
    part: str  # "Train" or "Test"; in the competition version "" for the good ones or "_def"
    folder: str  # as images are called after it: "Class1/Train", "Class1" or "Class1_def"
    images: dict[str, str] = field(default_factory=dict)  # name without folder → file
    truth: dict[str, str] = field(default_factory=dict)  # name in lower case → file of labels or of a mask


def _groups(files: Files) -> dict[str, dict[str, _Group]]:
    """Class → part → its folder; empty where the files lie in another layout."""
    if not any("Class" in name or name.lower().endswith(f"/{_LABELS}") for name in files.names):
        return {}  # quick, where there are many other files
    for start in files.starts:
        groups: dict[str, dict[str, _Group]] = {}
        sure = False  # "Class1/" with nothing but images may be a class folder of any data set
        for file in files.names:
            if match := _TEN_CLASS.fullmatch(file, start):
                class_name, part, truth, name = match.groups()
                folder = f"{class_name or files.title}/{part}"
                sure |= bool(class_name) or (bool(truth) and name.lower() == _LABELS)
            elif match := _COMPETITION.fullmatch(file, start):
                class_name, part, name = match.groups(default="")
                folder, truth = f"{class_name}{part}", name.lower() == _LABELS
                sure |= bool(part)
            else:
                continue
            parts = groups.setdefault(class_name or files.title, {})
            group = parts.setdefault(part, _Group(class_name or files.title, part, folder))
            if truth:
                group.truth[name.lower()] = file
            elif is_image(name):
                group.images[name] = file
        with_images = {
            class_name: {part: group for part, group in parts.items() if group.images}
            for class_name, parts in groups.items()
            if any(group.images for group in parts.values())
        }
        if sure and with_images:
            return with_images
    return {}


def _labelled(files: Files, group: _Group) -> Iterator[Entry]:
    """The images of a folder with what is known of each.

    Raises:
        DataError: labels that are missing or damaged.
    """
    truths = _ten_class_labels(files, group) if group.part in ("Train", "Test") else _ellipses(files, group)
    for name, file in group.images.items():
        defective, mask = truths.get(_number(name), (group.part == "_def", None))
        item = Item(f"{group.folder}/{name}", group.class_name, DEFECT if defective else "")
        yield Entry(file, item, mask)


def _ten_class_labels(files: Files, group: _Group) -> dict[str, tuple[bool, str | None]]:
    """Number of an image → whether it is defective, and the file of its mask.

    The first row of `Labels.txt` is one number; each other one holds an image's number, 1 for a defect or
    else 0, the image's file, a 0 and the mask's file, or 0 if it has none.
    """
    if _LABELS not in group.truth:
        raise DataError(
            f"'{files.path}' has no {group.folder}/Label/Labels.txt, which says what images of "
            f"{group.folder} are defective: copy it from the data set."
        )
    found: dict[str, tuple[bool, str | None]] = {}
    for number, row in enumerate(_rows(files, group.truth[_LABELS]), 1):
        if number == 1 and len(row) == 1:
            continue
        if len(row) < 5 or row[1] not in ("0", "1"):
            raise _damaged(files, group, number, "a number, 0 or 1, an image, 0, and a mask or 0")
        found[_number(row[2])] = row[1] == "1", group.truth.get(row[4].lower())
    unknown = next((name for name in group.images if _number(name) not in found), None)
    if unknown is not None:
        raise DataError(
            f"{files.full(group.truth[_LABELS])} says nothing of {unknown}: add its row or remove the image."
        )
    return found


def _ellipses(files: Files, group: _Group) -> dict[str, tuple[bool, Ellipse]]:
    """Number of a defective image → True and its ellipse.

    A row of `labels.txt` holds an image's number, the semi-major and the semi-minor axis in pixels, the
    rotation in radians, and the centre's x and y in pixels.
    """
    found: dict[str, tuple[bool, Ellipse]] = {}
    if group.part and _LABELS in group.truth:
        for number, row in enumerate(_rows(files, group.truth[_LABELS]), 1):
            try:
                image, *values = map(float, row)
                ellipse = Ellipse(*values)
                if not all(map(math.isfinite, values)) or min(ellipse.semi_major, ellipse.semi_minor) <= 0:
                    raise ValueError
                found[str(int(image))] = True, ellipse
            except (TypeError, ValueError, OverflowError) as error:
                expected = "a number, two semi-axes, a rotation, and the centre's x and y"
                raise _damaged(files, group, number, expected) from error
    return found


def _rows(files: Files, name: str) -> list[list[str]]:
    """The fields of each row of a text file that are apart by white space; empty rows are left out."""
    try:
        text = files.read(name).decode("utf-8-sig", errors="replace")
    except ImageError as error:
        raise DataError(str(error)) from error
    return [row.split() for row in text.splitlines() if row.strip()]


def _damaged(files: Files, group: _Group, number: int, expected: str) -> DataError:
    return DataError(
        f"{files.full(group.truth[_LABELS])} is damaged in row {number}, which should hold {expected}: "
        "copy it from the data set again."
    )


def _number(name: str) -> str:
    """An image's name without its ending and leading zeros: labels and files may differ in both."""
    return os.path.splitext(name)[0].lower().lstrip("0") or "0"


def _given_split(parts: dict[str, list[Entry]], split: str) -> list[Entry]:
    """The split of a class that comes with Train and Test."""
    if split == "test":
        return parts["Test"]
    held_back = [e for e in parts["Train"] if e.item.defect or share(e.item.name) < 0.1]
    if split == "validation":
        return held_back
    names = {entry.item.name for entry in held_back}
    return [entry for entry in parts["Train"] if entry.item.name not in names]


def _drawn_split(entries: list[Entry], split: str) -> list[Entry]:
    """The split of a class without splits of its own."""
    drawn = sorted(entries, key=lambda entry: hashlib.sha256(entry.item.name.encode()).digest())
    good = [entry for entry in drawn if not entry.item.defect]
    bad = [entry for entry in drawn if entry.item.defect]
    train = TRAIN_GOOD if len(good) >= TRAIN_GOOD + MIN_REST else len(good) * 4 // 5
    rest = good[train:]
    if split == "train":
        return good[:train]
    if split == "validation":
        return rest[: len(rest) // 3] + bad[: len(bad) // 3]
    return rest[len(rest) // 3 :] + bad[len(bad) // 3 :]
