"""Data sets by name: the embedded textures, and what lies in folders or ZIPs on this machine.

A name is looked for in `$ANOUNET_DATA`, then in `data/`, as a folder NAME or a file NAME.zip. Its layout is
told by what lies inside: DAGM 2007, MVTec AD, idx files, CIFAR-10's batches, class
folders, or images and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anounet.datasets.cifar import CifarSet
from anounet.datasets.dagm import DagmSet
from anounet.datasets.download import FOLDER, SIZES
from anounet.datasets.files import Files, FileSet
from anounet.datasets.folders import FolderSet
from anounet.datasets.idx import IdxSet
from anounet.datasets.image_set import SPLITS, DataError, ImageSet, Item
from anounet.datasets.mvtec import MvtecSet
from anounet.datasets.plain import PlainSet
from anounet.datasets.texture_set import TextureSet

__all__ = [
    "SPLITS",
    "DataError",
    "Found",
    "ImageSet",
    "Item",
    "TextureSet",
    "available",
    "choose",
    "discover",
    "find",
    "is_here",
    "layout_of",
    "open_set",
]

# The first that fits is the one: those before are the stricter ones.
_READERS: tuple[type[FileSet], ...] = (DagmSet, MvtecSet, IdxSet, CifarSet, FolderSet, PlainSet)

# What torchvision calls them in a folder of its own.
_TORCHVISION = {"cifar10": ("cifar-10-batches-py",), "fashion_mnist": ("FashionMNIST",)}

MIN_LISTED = 5  # images directly in a folder: with fewer it is hardly meant as a data set, but can be opened


def data_folders() -> list[Path]:
    """Where data sets are looked for, in this order."""
    named = os.environ.get("ANOUNET_DATA")
    return [Path(folder) for folder in ([named] if named else []) + [FOLDER]]


def layout_of(path: Path | str) -> str | None:
    """The layout of a folder or a ZIP: "dagm", "mvtec", "idx", "cifar", "classes", "plain"; None if none.

    Class folders beside which as many images or more lie are not meant: that is "plain".

    Raises:
        DataError: neither a folder nor a ZIP that can be read.
    """
    reader = _reader(Files(path))
    return reader and reader.kind


@dataclass(frozen=True)
class Found:
    """A data set that can be opened here. Its files are listed once for all its splits."""

    name: str
    path: Path | None = None  # None: embedded
    _files: Files | None = None
    _reader: type[FileSet] | None = None

    def open(self, split: str) -> ImageSet:
        """One of its splits.

        Raises:
            DataError: unknown split, or damaged labels.
        """
        if self._files is None or self._reader is None:
            return TextureSet(split)
        # A set that torchvision has laid out is called by its own name, whatever the folder's is.
        return self._reader(self._files, split, self.name if self.name in _TORCHVISION else None)


def discover() -> Iterator[Found]:
    """Every data set that can be opened here by its name, the embedded one first."""
    yield Found(TextureSet.name)
    known = {TextureSet.name}
    for folder in data_folders():
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not ((path.is_dir() and not path.name.startswith(".")) or path.suffix == ".zip"):
                continue  # other files may lie there
            name = path.name if path.is_dir() else path.stem
            found = None if name in known else _found(name, path)
            if found is not None and not _is_stray(found):
                known.add(name)
                yield found


def available() -> dict[str, Path | None]:
    """Name → where it lies (None for the embedded one) of every data set that can be opened here."""
    return {found.name: found.path for found in discover()}


def _candidates(name: str) -> list[Path]:
    """What there is that a name may mean, in the order in which it is tried."""
    names = (name, f"{name}.zip", *_TORCHVISION.get(name, ()))
    return [folder / each for folder in data_folders() for each in names if (folder / each).exists()]


def _advice(name: str) -> str:
    return f"'python -m anounet download {name}' gets it. " if name in SIZES else ""


def _found(name: str, path: Path) -> Found | None:
    try:
        files = Files(path)
    except DataError:
        return None
    reader = _reader(files)
    return reader and Found(name, path, files, reader)


def _is_stray(found: Found) -> bool:
    return found._reader is PlainSet and len(found._files.direct) < MIN_LISTED


def find(name: str) -> Path | None:
    """Where the data set of a name lies; None if it is embedded, or not here."""
    candidates = [] if name == TextureSet.name else _candidates(name)
    return next((path for path in candidates if _found(name, path)), None)


def is_here(name: str) -> bool:
    """Whether a data set can be opened by its name."""
    return name == TextureSet.name or find(name) is not None


def open_set(name: str, split: str) -> ImageSet:
    """Opens a split of a data set by its name, or by the path of its folder or ZIP.

    Raises:
        DataError: no such data set here, or none that can be read; the sentence says what was looked for.
    """
    if name == TextureSet.name:
        return TextureSet(split)
    candidates = _candidates(name)
    for path in candidates:
        if found := _found(name, path):
            return found.open(split)
    if candidates:
        return _open(candidates[0], split)  # which says what is wrong with it
    if Path(name).exists():
        return _open(Path(name), split)
    looked = " and ".join(f"'{folder}'" for folder in data_folders())
    raise DataError(
        f"There is no data set '{name}' here: it is neither a folder nor a ZIP, nor found in {looked} "
        f"(set ANOUNET_DATA to the folder of data sets). {_advice(name)}'{TextureSet.name}' is always there."
    )


def choose(indices: Sequence[int], count: int | None, seed: int = 0) -> list[int]:
    """`count` of the indices, drawn by a local generator, in ascending order; all of them for None."""
    if count is None or count >= len(indices):
        return list(indices)
    return sorted(np.random.default_rng(seed).choice(np.asarray(indices), count, replace=False).tolist())


def _reader(files: Files) -> type[FileSet] | None:
    return next((reader for reader in _READERS if reader.fits(files)), None)


def _open(path: Path, split: str) -> ImageSet:
    files = Files(path)
    reader = _reader(files)
    if reader is None:
        raise DataError(
            f"'{path}' holds no data set: there is neither DAGM 2007 (Class1/Train/…), nor MVTec AD "
            "(<category>/train/good/…), nor idx files (train-images-idx3-ubyte, …), nor CIFAR-10 "
            "(data_batch_1, …), nor class folders (<class>/image.png), nor images directly inside."
        )
    return reader(files, split)
