"""malloc keeps what is freed, and gives it back when it is told to; seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anounet import memory

ROOT = Path(__file__).resolve().parent.parent
COUNTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from anounet import memory

if sys.argv[1] == "kept":
    memory.keep_freed()

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024

def work():
    for _ in range(20):
        torch.zeros(5 * 2**20)  # 20 MB

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
counted, before = faults(), held()
memory.give_back()
print(counted, before - held())
"""


def counts(how: str) -> list[int]:
    command = [sys.executable, "-c", COUNTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(memory._libc() is None, reason="only glibc can be told what to keep")
def test_what_is_freed_serves_the_next_operation_and_goes_back_when_it_is_over() -> None:
    faults, returned = counts("kept")
    usual, _ = counts("usual")
    pages = 20 * 20 * 2**20 // 4096
    assert faults < pages // 100 and usual > pages // 10
    assert returned > 15  # MB, of 20


def test_elsewhere_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", lambda: None)
    memory.keep_freed()
    memory.give_back()
