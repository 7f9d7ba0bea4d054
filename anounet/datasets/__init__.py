"""Data sets by name: the embedded textures, and folders or ZIPs of classes found on this machine.

A name is looked for in `$ANOUNET_DATA`, then in `data/`, as a folder NAME or a file NAME.zip.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anounet.datasets.folders import FolderSet
from anounet.datasets.image_set import SPLITS, DataError, ImageSet, Item
from anounet.datasets.texture_set import TextureSet

__all__ = ["SPLITS", "DataError", "ImageSet", "Item", "TextureSet", "available", "choose", "open_set"]


def data_folders() -> list[Path]:
    """Where data sets are looked for, in this order."""
    named = os.environ.get("ANOUNET_DATA")
    return [Path(folder) for folder in ([named] if named else []) + ["data"]]


def available() -> dict[str, Path | None]:
    """Name → where it lies (None for the embedded one) of every data set that can be opened here."""
    found: dict[str, Path | None] = {TextureSet.name: None}
    for folder in data_folders():
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if (path.is_dir() and not path.name.startswith(".")) or path.suffix == ".zip":
                    try:
                        FolderSet(path, "train")
                    except DataError:
                        continue  # other files may lie there: they are no data set of classes
                    found.setdefault(path.stem, path)
    return found


def open_set(name: str, split: str) -> ImageSet:
    """Opens a split of a data set by its name, or by the path of its folder or ZIP.

    Raises:
        DataError: no such data set here; the sentence says where it was looked for.
    """
    if name == TextureSet.name:
        return TextureSet(split)
    for folder in data_folders():
        for path in (folder / name, folder / f"{name}.zip"):
            if path.exists():
                return FolderSet(path, split, name)
    if Path(name).exists():
        return FolderSet(name, split)
    looked = " and ".join(f"'{folder}'" for folder in data_folders())
    raise DataError(
        f"There is no data set '{name}' here: it is neither a folder nor a ZIP, nor found in {looked} "
        f"(set ANOUNET_DATA to the folder of data sets). '{TextureSet.name}' is always there."
    )


def choose(indices: Sequence[int], count: int | None, seed: int = 0) -> list[int]:
    """`count` of the indices, drawn by a local generator, in ascending order; all of them for None."""
    if count is None or count >= len(indices):
        return list(indices)
    return sorted(np.random.default_rng(seed).choice(np.asarray(indices), count, replace=False).tolist())
