"""CIFAR-10 in its Python version (Krizhevsky 2009): `cifar-10-batches-py/`, or the archive it comes in."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anounet.datasets.arrays import ArraySet, Kept, key_of, read_part
from anounet.datasets.files import Files
from anounet.datasets.image_set import DataError

ARCHIVE = "cifar-10-python.tar.gz"
MAX_BATCH = 64 * 2**20  # bytes of a file in it; there are 31 MB in each
MAX_MEMBERS = 100  # of the archive; there are 9
MAX_UNPACKED = 512 * 2**20  # bytes that the archive may unpack to; CIFAR-10's has 186 MB

_SIDE, _CLASSES = 32, 10
_META = "batches.meta"
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_NAMES = frozenset([_META, *_BATCHES["train"], *_BATCHES["test"]])


@dataclass(frozen=True)
class _Cifar:
    """All that the files hold."""

    classes: tuple[str, ...]
    labels: dict[str, list[int]]  # "train" or "test" → of each image
    images: dict[str, np.ndarray]  # (N, 3, 32, 32) uint8


_kept: Kept[_Cifar] = Kept(1)  # 184 MB: the files are pickles, of which no part can be read alone


class CifarSet(ArraySet):
    """One split of CIFAR-10 as torchvision keeps it: a folder of pickles, or the archive, read in place.

    The pickles are taken apart without running anything that they name. A tenth of train is "validation".

    Raises:
        DataError: no such files, or damaged ones.
    """

    kind = "cifar"

    @classmethod
    def fits(cls, files: Files) -> bool:
        return bool(_placed(files)) or _archive(files) is not None

    def _labels(self, part: str) -> tuple[tuple[str, ...], Sequence[int]]:
        cifar = self._read()
        return cifar.classes, cifar.labels[part]

    def _images(self, part: str) -> np.ndarray:
        return self._read().images[part].transpose(0, 2, 3, 1)

    def _read(self) -> _Cifar:
        placed, archive = _placed(self.files), _archive(self.files)
        if placed:
            key = tuple(key_of(self.files, placed[name]) for name in sorted(_NAMES))
            return _kept.get(key, lambda: _put_together(_unpacked(self.files, placed), self.files.full))
        if archive is None:
            raise DataError(
                f"'{self.path}' is not CIFAR-10 in its Python version: it needs {ARCHIVE}, or data_batch_1 "
                "to data_batch_5, test_batch and batches.meta in one folder."
            )
        path = self.files.absolute(archive)
        key = key_of(self.files, archive)
        return _kept.get(key, lambda: _put_together(_from_archive(path), lambda name: f"{name} in {path}"))


def _placed(files: Files) -> dict[str, str]:
    """Name of a batch → its file; empty where no folder has all of them."""
    if not any(name.endswith(_META) for name in files.names):
        return {}  # quick, where there are many other files
    folders: dict[str, dict[str, str]] = {}
    for name in files.names:
        folder, _, base = name.rpartition("/")
        if base in _NAMES:
            folders.setdefault(folder, {})[base] = name
    return next((found for found in folders.values() if len(found) == len(_NAMES)), {})


def _archive(files: Files) -> str | None:
    """The archive in a folder; one within a ZIP is not opened."""
    if files.zipped:
        return None
    return next((name for name in files.names if name.rpartition("/")[2] == ARCHIVE), None)


def _unpacked(files: Files, placed: dict[str, str]) -> dict[str, bytes]:
    return {base: read_part(files, name, MAX_BATCH) for base, name in placed.items()}


def _from_archive(path: Path) -> dict[str, bytes]:
    """The batches in the archive, by name; nothing is written, and other members are passed over."""
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=_Limited(unpacked), mode="r|") as archive:
            for number, member in enumerate(archive):
                base = member.name.rpartition("/")[2]
                if number >= MAX_MEMBERS or (base in _NAMES and member.size > MAX_BATCH):
                    raise tarfile.ReadError("it holds too much")
                if base in _NAMES and member.isreg():
                    found[base] = archive.extractfile(member).read()
    except Exception as error:  # tarfile, gzip and zlib raise half a dozen kinds on damaged archives
        raise DataError(f"'{path}' is damaged ({error}): get it anew.") from error
    if found.keys() != _NAMES:
        raise DataError(f"'{path}' has no {min(_NAMES - found.keys())}: get it anew.")
    return found


class _Limited:
    """A stream that ends with an error once it has given too much: a bomb."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MAX_UNPACKED

    def read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("it holds too much")
        return data


def _put_together(batches: dict[str, bytes], full: Callable[[str], str]) -> _Cifar:
    """What the batches hold.

    Args:
        full: what to call a batch in messages.
    """
    classes = _from_pickle(_classes_in, batches[_META], full(_META))
    labels: dict[str, list[int]] = {}
    images: dict[str, np.ndarray] = {}
    for part, names in _BATCHES.items():
        read = [_from_pickle(_images_in, batches[name], full(name)) for name in names]
        labels[part] = [label for found, _ in read for label in found]
        images[part] = np.concatenate([pixels for _, pixels in read])
    return _Cifar(classes, labels, images)


def _from_pickle(take: Callable[[Any], Any], data: bytes, name: str) -> Any:
    try:
        return take(load_data(data))
    except Exception as error:  # a foreign pickle goes wrong in as many ways as there are
        raise DataError(f"{name} is damaged or no part of CIFAR-10 ({error}): get it anew.") from error


def _classes_in(meta: Any) -> tuple[str, ...]:
    classes = tuple(meta["label_names"])
    if len(set(classes)) != _CLASSES or not all(isinstance(name, str) and name for name in classes):
        raise ValueError(f"label_names should name {_CLASSES} classes")
    return classes


def _images_in(batch: Any) -> tuple[list[int], np.ndarray]:
    """The labels of a batch, and its images: (N, 3, 32, 32) uint8."""
    labels, array = batch["labels"], batch["data"]
    if not isinstance(labels, list) or not all(isinstance(n, int) and 0 <= n < _CLASSES for n in labels):
        raise ValueError(f"labels should be numbers from 0 to {_CLASSES - 1}")
    if array.kind not in ("u1", "|u1") or array.shape != (len(labels), 3 * _SIDE**2) or array.by_column:
        raise ValueError(f"data should be {len(labels)} × {3 * _SIDE**2} bytes")
    return labels, np.frombuffer(array.data, np.uint8).reshape(len(labels), 3, _SIDE, _SIDE)


# --- pickles that run nothing ------------------------------------------------------------------------


def load_data(data: bytes) -> Any:
    """Numbers, strings, bytes, lists, tuples, dicts and numpy arrays from a pickle; nothing it names is run.

    Python's own `pickle.load` calls whatever a file tells it to. Here the four names that an array's pickle
    holds stand for what merely keeps an array's parts, and any other name ends the reading.

    Returns:
        What was pickled; in place of an array, what has its `shape`, `kind` ("u1"), `by_column` and `data`.

    Raises:
        Exception: of many kinds, for a pickle that is damaged or names anything else.
    """
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


class _Unpickler(pickle._Unpickler):
    """The one in Python: the one in C makes room for a billion memos where a damaged file asks for it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._known = _stand_ins()  # of each file's own, so that no file can change those of the next

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module.replace("numpy.core", "numpy._core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no data") from None


def _stand_ins() -> dict[tuple[str, str], Any]:
    """What an array's pickle names → what is used in its place."""

    class Kind:
        def __init__(self, kind: str, *_: Any) -> None:
            self.kind = kind

        def __setstate__(self, state: Any) -> None:
            pass  # byte order and the like: a byte has none

    class Array:
        def __setstate__(self, state: Any) -> None:
            _, self.shape, kind, self.by_column, data = state
            self.kind = kind.kind
            self.data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2, or 3

    return {
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: Array(),
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Kind,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    }
