"""Results kept by what they were made from: image, settings, weights. Bounded, shared, computed once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from anounet.visualization import Result

T = TypeVar("T")
MAX_BYTES = 48 * 2**20  # of tensors; 105 results at 96 px


class ResultCache(Generic[T]):
    """A least-recently-used store, bounded by the bytes of what it holds; of Results, unless said otherwise.

    Args:
        size: the bytes of one entry's tensors; `size_of` by default.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, size: Callable[[T], int] | None = None) -> None:
        self._max, self._size = max_bytes, size or size_of
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._computing: dict[str, tuple[threading.Lock, int]] = {}

    def get(self, key: str) -> T | None:
        with self._lock:
            result = self._kept.get(key)
            if result is not None:
                self._kept.move_to_end(key)
            return result

    def put(self, key: str, result: T) -> None:
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += self._size(result) - (self._size(old) if old else 0)
            self._kept[key] = result
            while self._bytes > self._max and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= self._size(dropped)

    def compute(self, key: str, make: Callable[[], T]) -> T:
        """The kept result, or a new one; of threads that miss at once one computes, the others wait."""
        with self._lock:
            lock, waiting = self._computing.get(key, (threading.Lock(), 0))
            self._computing[key] = (lock, waiting + 1)
        try:
            with lock:
                result = self.get(key)
                if result is None:
                    result = make()
                    self.put(key, result)
                return result
        finally:
            with self._lock:
                lock, waiting = self._computing[key]
                if waiting == 1:
                    del self._computing[key]
                else:
                    self._computing[key] = (lock, waiting - 1)

    def __len__(self) -> int:
        return len(self._kept)


def result_key(image: str, version: str, method: str, settings: Any) -> str:
    """Names a result: the image's content hash, the weights' hash, the method and its settings.

    Settings are frozen dataclasses, whose `repr` holds every field.
    """
    return hashlib.sha256(f"{image} {version} {method} {settings!r}".encode()).hexdigest()


def size_of(result: Result) -> int:
    tensors = {id(t): t for t in (result.x, result.y, result.anomaly_map, *result.maps.values())}
    return sum(t.numel() * t.element_size() for t in tensors.values() if t is not None)
