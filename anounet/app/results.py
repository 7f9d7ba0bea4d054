"""Results kept by what they were made from: image, settings, weights. Bounded, shared, computed once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from anounet.visualization import Result

MAX_BYTES = 64 * 2**20  # of tensors; 140 results at 96 px


class ResultCache:
    """A least-recently-used store of Results, bounded by the bytes of their tensors."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max = max_bytes
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._computing: dict[str, tuple[threading.Lock, int]] = {}

    def get(self, key: str) -> Result | None:
        with self._lock:
            result = self._kept.get(key)
            if result is not None:
                self._kept.move_to_end(key)
            return result

    def put(self, key: str, result: Result) -> None:
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += size_of(result) - (size_of(old) if old else 0)
            self._kept[key] = result
            while self._bytes > self._max and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= size_of(dropped)

    def compute(self, key: str, make: Callable[[], Result]) -> Result:
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
