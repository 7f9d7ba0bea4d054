"""How the process holds memory: for whoever owns the process, the command line, the app or an actor."""

from __future__ import annotations

import ctypes
import gc

# glibc's numbers, <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MEGABYTE = 2**20


def keep_freed() -> bool:
    """Lets malloc keep what is freed for the next operation, in one place for all threads.

    By default glibc hands a tensor's memory back to the system at its end, and each operation of a net gets
    new pages, a thousand for an image, which the system has to clear: a tenth of the time. The peak is
    no higher for it. `give_back` is for the end of the work.

    Returns:
        Whether malloc took it; another one than glibc's does not.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    # 32 MB is the most that the second one takes.
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 32 * _MEGABYTE), (_TRIM_THRESHOLD, 512 * _MEGABYTE))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in wanted)


def give_back() -> None:
    """Hands freed memory back to the system: a training leaves hundreds of megabytes that malloc keeps."""
    gc.collect()
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")  # glibc, so Linux only
    except OSError:
        return None
