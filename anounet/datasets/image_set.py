"""What every data set gives: named images, read lazily, with class, defect and mask where they are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from anounet.datasets.textures import SPLITS
from anounet.images import ImageError, to_tensor

__all__ = ["SPLITS", "DataError", "ImageSet", "Item"]


class DataError(ValueError):
    """A data set that cannot be had or used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Item:
    """One image of a set: its name (unique in the set), its class, and its defect ("" for a good one)."""

    name: str
    class_name: str
    defect: str = ""


def check_split(split: str) -> str:
    """Gives `split` back if there is one of that name.

    Raises:
        DataError: none of `SPLITS`.
    """
    if split not in SPLITS:
        raise DataError(f"Unknown split '{split}': choose one of {', '.join(SPLITS)}.")
    return split


class ImageSet(ABC):
    """A split of a data set.

    Attributes:
        kind: the layout it was read from, "textures" for the embedded one.
        has_masks: whether `mask` answers for every image of the split.
        name: what the command line calls the data set.
        split: "train", "validation" or "test".
        classes: the names of its classes, in a fixed order.
        long_names: class → what its makers call it, where that can't be typed well ("Ankle boot").
        items: its images; nothing is read before `pixels` or `mask` asks for it.
    """

    kind: str = ""
    has_masks: bool = False
    long_names: Mapping[str, str] = MappingProxyType({})
    name: str
    split: str
    classes: tuple[str, ...]
    items: Sequence[Item]

    @abstractmethod
    def pixels(self, index: int, size: int) -> np.ndarray:
        """Image `index`, bilinearly resized: uint8 (size, size, 3)."""

    def mask(self, index: int, size: int) -> np.ndarray | None:
        """Where image `index` is defective, bool (size, size), all False for a good one; None if unknown."""
        return None

    def __len__(self) -> int:
        return len(self.items)

    def class_named(self, name: str) -> str:
        """The class of a name, which may also be its long one.

        Raises:
            DataError: there is no such class.
        """
        if name in self.classes:
            return name
        for class_name, long_name in self.long_names.items():
            if long_name.casefold() == name.casefold():
                return class_name
        raise DataError(f"'{self.name}' has no class '{name}': choose from {', '.join(self.classes)}.")

    def check_classes(self, names: Sequence[str]) -> None:
        """Refuses names of which one is no class.

        Raises:
            DataError: which one, and what classes there are.
        """
        for name in names:
            self.class_named(name)

    def where(
        self, class_name: str | None = None, *, exclude: Sequence[str] = (), defective: bool | None = None
    ) -> list[int]:
        """Indices of a class's images, or of all but the excluded ones: good, defective, or both."""
        return [
            index
            for index, item in enumerate(self.items)
            if (class_name is None or item.class_name == class_name)
            and item.class_name not in exclude
            and (defective is None or bool(item.defect) is defective)
        ]

    def batches(self, indices: Sequence[int], size: int, batch: int = 32) -> Iterator[Tensor]:
        """The images in order: (B, 3, size, size) float32 in [0, 1]."""
        for start in range(0, len(indices), batch):
            yield to_tensor([self.pixels(index, size) for index in indices[start : start + batch]])

    def tensor(self, indices: Sequence[int], size: int) -> Tensor:
        """All the images at once, for training: (N, 3, size, size) uint8."""
        images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for row, index in enumerate(indices):
            images[row] = torch.from_numpy(np.array(self.pixels(index, size))).permute(2, 0, 1)
        return images

    def readable(self, indices: Sequence[int], size: int) -> tuple[Tensor, list[int], list[tuple[str, str]]]:
        """The images that can be read, where damaged ones must not end it all.

        Returns:
            The images, (N, 3, size, size) uint8; their indices, in the order given; and for each of the
            others its name and why it cannot be read, in one sentence.

        Raises:
            ValueError: a size that the nets cannot work at.
        """
        images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        kept: list[int] = []
        skipped: list[tuple[str, str]] = []
        for index in indices:
            try:
                images[len(kept)] = self.tensor([index], size)[0]
            except ImageError as error:
                skipped.append((self.items[index].name, str(error)))
            else:
                kept.append(index)
        return images[: len(kept)], kept, skipped

    def masks(self, indices: Sequence[int], size: int) -> np.ndarray | None:
        """(N, size, size) bool, or None where the set has none."""
        masks = [self.mask(index, size) for index in indices]
        return None if not masks or any(mask is None for mask in masks) else np.stack(masks)
