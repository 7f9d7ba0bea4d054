"""What data sets share whose images are bare pixels in a few large files: Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np

from anounet.datasets.files import Entry, Files, FileSet, mark_of
from anounet.datasets.folders import split_of
from anounet.datasets.image_set import DataError, Item
from anounet.images import ImageError, resize_pixels

T = TypeVar("T")
_GIVEN = {"train", "test"}


class ArraySet(FileSet):
    """One split of a data set of arrays; a subclass knows one format.

    "validation" is a tenth of train, by the rule of class folders. Labels are read at once, pixels when the
    first of them is asked for.
    """

    def _sort_out(self, split: str) -> tuple[tuple[str, ...], Sequence[Entry]]:
        self._part = "test" if split == "test" else "train"
        classes, labels = self._labels(self._part)
        self._rows, entries = [], []
        for row, label in enumerate(labels):
            name = f"{self._part}/{classes[label]}/{row:05d}"
            if split_of(name, self._part, _GIVEN) == split:
                self._rows.append(row)
                entries.append(Entry(name, Item(name, classes[label])))
        return classes, entries

    @abstractmethod
    def _labels(self, part: str) -> tuple[tuple[str, ...], Sequence[int]]:
        """The classes, and of each image of "train" or "test" the number of its class.

        Raises:
            DataError: the files are in another format, or damaged.
        """

    @abstractmethod
    def _images(self, part: str) -> np.ndarray:
        """The images of "train" or "test": (N, H, W) or (N, H, W, 3) uint8.

        Raises:
            DataError: their file is damaged: none of them can be read then.
        """

    def pixels(self, index: int, size: int) -> np.ndarray:
        return resize_pixels(self._images(self._part)[self._rows[index]], size)


class Kept(Generic[T]):
    """The last few things that were read, for all sets that want the same; threads wait for each other."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """What is kept under the key, else what `read` gives."""
        with self._lock:
            if key not in self._found:
                while len(self._found) >= self._most:  # before the next is read: both need not fit in memory
                    self._found.popitem(last=False)
                self._found[key] = read()
            self._found.move_to_end(key)
            return self._found[key]


def key_of(files: Files, name: str) -> tuple[object, ...]:
    """Names a file's very bytes, for `Kept`.

    Raises:
        DataError: the file, or the ZIP that it is in, is gone.
    """
    place = files.absolute(name)
    try:
        return (place, name, *mark_of(place))
    except OSError as error:
        raise DataError(f"'{place}' cannot be read ({error.strerror}): put it back.") from error


def read_part(files: Files, name: str, most: int) -> bytes:
    """As `Files.read`, where a file that can't be read is the end of the whole set.

    Raises:
        DataError: it is gone, damaged, encrypted or not to be read.
    """
    try:
        return files.read(name, most)
    except ImageError as error:
        raise DataError(str(error)) from error
