"""malloc keeps what is freed, and gives it back when it is told to; seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anounet import memory

ROOT = Path(__file__).resolve().parent.parent
KEPT = """
from pathlib import Path
import torch
from anounet import memory

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024

memory.give_back()
print(memory.keep_freed())
first = held()
parts = [torch.ones(5 * 2**18) for _ in range(20)]  # 5 MB each
del parts
kept = held()
memory.give_back()
print(kept - first, kept - held())
"""
glibc = pytest.mark.skipif(memory._libc() is None, reason="only glibc can be told what to keep")


def said(code: str) -> list[str]:
    """What a process of its own prints: what malloc is told holds for all of a process."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()


@glibc
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    taken, kept, returned = said(KEPT)
    assert taken == "True"
    assert int(kept) > 90 and int(returned) > 90  # MB, of 100


def test_elsewhere_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", lambda: None)
    assert not memory.keep_freed()
    memory.give_back()


MEASURED = """
import torch
from anounet import memory
from anounet.experiments.memory import PeakMemory

memory.keep_freed()
torch.ones(25 * 2**18), torch.ones(25 * 2**18)  # 25 MB each: malloc keeps them
torch.ones(25 * 2**18)
peak = PeakMemory(torch.device("cpu"))
parts = [torch.ones(25 * 2**18) for _ in range(4)]
print(round(peak.growth))
"""


@glibc
def test_the_memory_of_a_piece_of_work_is_its_own_whatever_malloc_kept_before() -> None:
    (grown,) = said(MEASURED)
    assert 90 <= int(grown) < 130
