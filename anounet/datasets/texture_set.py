"""The embedded data as an `ImageSet`: textures drawn on demand, defects with exact masks."""

from __future__ import annotations

import numpy as np

from anounet.datasets import textures
from anounet.datasets.image_set import DataError, ImageSet, Item, check_split

MAX_PER_CLASS = 100_000
GOOD_PER_CLASS = {"train": 400, "validation": 60, "test": 60}


class TextureSet(ImageSet):
    """One split: good images of every texture, and in validation and test as many defective ones.

    Args:
        split: "train" (good images only), "validation" or "test"; no two share a seed.
        per_class: good images of each texture; the split's own number by default.
        seed: another seed gives another data set of the same kind.
    """

    name = kind = "textures"
    has_masks = True
    classes = textures.TEXTURES

    def __init__(self, split: str, per_class: int | None = None, seed: int = 0) -> None:
        self.split, self.seed = check_split(split), seed
        self.per_class = GOOD_PER_CLASS[split] if per_class is None else per_class
        if not 1 <= self.per_class <= MAX_PER_CLASS:
            raise DataError(f"A class of textures has 1 to {MAX_PER_CLASS} images, not {self.per_class}.")
        defective = [False] if split == "train" else [False, True]
        # A good and a defective image of one number share their background: here no number is used twice.
        self._recipes = [
            (texture, bad, number + MAX_PER_CLASS * bad)
            for texture in self.classes
            for bad in defective
            for number in range(self.per_class)
        ]
        self.items = [self._item(*recipe) for recipe in self._recipes]

    def _item(self, texture: str, bad: bool, index: int) -> Item:
        defect = textures.defect_of(texture, self.split, index, seed=self.seed) if bad else ""
        return Item(f"{texture}_{self.split}_{index:04d}_{defect or 'good'}", texture, defect)

    def _draw(self, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        texture, bad, number = self._recipes[index]
        pixels, mask, _ = textures.sample(
            texture, self.split, number, size=size, seed=self.seed, defective=bad
        )
        return pixels, mask

    def pixels(self, index: int, size: int) -> np.ndarray:
        return self._draw(index, size)[0]

    def mask(self, index: int, size: int) -> np.ndarray:
        return self._draw(index, size)[1]
