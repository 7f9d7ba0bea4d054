"""How much memory a piece of work takes, beyond what was held before it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

from anounet.memory import give_back

_MEGABYTE = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """From its making on: how far the peak rises above what was held then, in MB.

    On a GPU it is the memory of tensors there; else the process's resident memory, whose peak Linux lets
    begin anew (`/proc/self/clear_refs`). Elsewhere the peak since the process began has to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device) / _MEGABYTE
            return
        give_back()  # what malloc keeps would serve the work, and be seen of nobody
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        self._before = _of_status("VmRSS") or _peak()

    @property
    def growth(self) -> float:
        """MB, 0 or more."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / _MEGABYTE
        else:
            peak = _of_status("VmHWM") or _peak()
        return max(0.0, peak - self._before)


def _of_status(name: str) -> float | None:
    """A line of Linux's status of this process, in MB; None elsewhere."""
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return None


def _peak() -> float:
    try:
        import resource  # not on Windows
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MEGABYTE if sys.platform == "darwin" else 1024)
