"""Gives every process of `pytest -n` a core of its own.

Two processes of one thread each do twice the work of two that have two threads each and share both
cores. What they start (servers, a browser, the command line) inherits the core, and so the count of threads.
"""

from __future__ import annotations

import os

worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, …
if worker and hasattr(os, "sched_setaffinity"):
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[int(worker.removeprefix("gw")) % len(allowed)]})
