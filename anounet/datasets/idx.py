"""The idx files of MNIST and its kin, above all Fashion-MNIST (Xiao et al. 2017), bare or gzipped."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from math import prod
from types import MappingProxyType

import numpy as np

from anounet.datasets.arrays import ArraySet, Kept, key_of, read_part
from anounet.datasets.files import MAX_FILES, Files
from anounet.datasets.image_set import DataError
from anounet.images import ImageError

MAX_SIDE = 1024  # of an image, in pixels
MAX_BYTES = 256 * 2**20  # of a file of images, uncompressed; Fashion-MNIST's has 47 MB

_FILE = re.compile(r"(?:(.*)/)?(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
_DIMENSIONS = {"images": 3, "labels": 1}
_HEAD = 4096  # compressed bytes that hold a header
_kept: Kept[np.ndarray] = Kept(2)  # train and test of one set

# In the order of their labels, as torchvision and the data set's authors call them.
_LONG_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FASHION: Mapping[str, str] = MappingProxyType(
    {re.sub("[^a-z]+", "-", name.lower()): name for name in _LONG_NAMES}
)


class IdxSet(ArraySet):
    """One split of a folder, or of a ZIP, that holds `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    The classes are Fashion-MNIST's ("sneaker", "ankle-boot"; the long names "Sneaker" and "Ankle boot" do as
    well) where a folder or the set is named after it, else the digits "0" to "9". A tenth of train is
    "validation"; "test" is what the files call t10k.

    Raises:
        DataError: no such files, another format, files that are cut short or do not belong together.
    """

    # torchvision.datasets.FashionMNIST needs unpacked files in a folder of its own naming, copies each whole
    # into memory at once and compares no lengths: a file cut short raises what torch says about views.

    kind = "idx"

    @classmethod
    def fits(cls, files: Files) -> bool:
        return bool(_placed(files))

    def _labels(self, part: str) -> tuple[tuple[str, ...], list[int]]:
        self._placed = _placed(self.files)
        if not self._placed:
            raise DataError(
                f"'{self.path}' is no data set in idx files: it needs train-images-idx3-ubyte, "
                "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte in one folder."
            )
        images, labels = (self._placed[part, what] for what in ("images", "labels"))
        count, *_ = _shape(self.files, images, "images")
        found = _read(self.files, labels, "labels")
        if len(found) != count:
            raise DataError(
                f"{self.files.full(labels)} has {len(found)} labels for the {count} images of "
                f"{self.files.full(images)}: take both from one data set."
            )
        if count and found.max() > 9:
            raise DataError(
                f"{self.files.full(labels)} has a label {found.max()}, and only 0 to 9 are known: "
                "copy it from the data set again."
            )
        if "fashion" in f"{self.files.title}/{images}".lower():
            self.long_names = FASHION
            return tuple(FASHION), found.tolist()
        return tuple("0123456789"), found.tolist()

    def _images(self, part: str) -> np.ndarray:
        name = self._placed[part, "images"]
        return _kept.get(key_of(self.files, name), lambda: _read(self.files, name, "images"))


def _placed(files: Files) -> dict[tuple[str, str], str]:
    """("train" or "test", "images" or "labels") → its file; empty where a folder has not all four of them."""
    folders: dict[str, dict[tuple[str, str], str]] = {}
    for name in files.names:  # sorted: a bare file comes before a gzipped one
        if match := _FILE.fullmatch(name):
            folder, part, what = match.groups(default="")
            folders.setdefault(folder, {}).setdefault(("train" if part == "train" else "test", what), name)
    return next((found for found in folders.values() if len(found) == 4), {})


def _shape(files: Files, name: str, what: str) -> tuple[int, ...]:
    """What a file's header says: (N,) of labels, (N, H, W) of images. A bare file's length is compared.

    The header is 0, 0, 8 for unsigned bytes, the number of dimensions, and each of them in four bytes, the
    highest first (http://yann.lecun.com/exdb/mnist).
    """
    dimensions = _DIMENSIONS[what]
    start = 4 + 4 * dimensions
    head = _uncompressed(files, name, start, whole=False)
    if len(head) < start:
        raise _cut_short(files, name)
    if head[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{files.full(name)} is no idx file of {what}: copy it from the data set again.")
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", dimensions, 4))
    if (
        shape[0] > MAX_FILES
        or not all(1 <= side <= MAX_SIDE for side in shape[1:])
        or prod(shape) > MAX_BYTES
    ):
        raise DataError(
            f"{files.full(name)} says that it holds {' × '.join(map(str, shape))} values, which is out of "
            "bounds: copy it from the data set again."
        )
    if not name.endswith(".gz") and _length(files, name) != start + prod(shape):
        raise _cut_short(files, name)
    return shape


def _read(files: Files, name: str, what: str) -> np.ndarray:
    """The values of a file: uint8 of the shape that its header says."""
    shape = _shape(files, name, what)
    start, count = 4 + 4 * len(shape), prod(shape)
    data = _uncompressed(files, name, start + count, whole=True)
    if len(data) != start + count:
        raise _cut_short(files, name)
    return np.frombuffer(data, np.uint8, count, start).reshape(shape)


def _uncompressed(files: Files, name: str, most: int, *, whole: bool) -> bytes:
    """A file's first bytes, at most one more than `most`: what a bomb holds beyond is never uncompressed."""
    if not name.endswith(".gz"):
        return read_part(files, name, most)
    packed = read_part(files, name, most + most // 100 + _HEAD)  # gzip makes nothing longer than that
    stream = zlib.decompressobj(wbits=31)  # with gzip's header and checksum
    try:
        data = stream.decompress(packed, most + 1)
    except zlib.error as error:
        raise DataError(
            f"{files.full(name)} is damaged ({error}): copy it from the data set again."
        ) from error
    if whole and not stream.eof:
        raise _cut_short(files, name)
    return data


def _length(files: Files, name: str) -> int:
    try:
        return files.length(name)
    except ImageError as error:
        raise DataError(str(error)) from error


def _cut_short(files: Files, name: str) -> DataError:
    return DataError(
        f"{files.full(name)} is cut short, or longer than its header says: copy it from the data set again."
    )
