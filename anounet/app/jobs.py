"""Long work beside the script runs: one queue, one worker, progress to read and a way to stop.

A Streamlit script run ends at the visitor's next click, so nothing long may live in it. Work is handed to the
`JobManager`, whose single thread is also the queue for the device. Nothing here knows Streamlit: workers
report to their `Job`, and pages read it.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
log = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, CANCELLED, FAILED = "queued", "running", "done", "cancelled", "failed"
MAX_POINTS = 400  # of a curve that a page is given: more than a chart's width shows


class JobCancelled(Exception):
    """Raised in a worker that was asked to stop and has nothing to hand back."""


@dataclass(frozen=True)
class Progress:
    """How far a job is: a snapshot that never changes."""

    message: str = ""  # what is being done now
    done: int = 0  # of `total`, in units of the work (steps, images)
    total: int = 0  # 0: not known yet
    first: int = 0  # what was done before this stage began: a training that goes on
    started: float | None = None  # when this stage began, time.monotonic
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # name → values so far, thinned
    samples: tuple[np.ndarray, ...] = ()  # pictures to look at, uint8 (H, W, 3)
    milestones: int = 0  # how often something finished that a page can show

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def remaining(self, now: float | None = None) -> float | None:
        """Seconds to go at the pace so far; None before there is a pace."""
        if self.started is None or self.done <= self.first or self.total <= 0:
            return None
        elapsed = (time.monotonic() if now is None else now) - self.started
        return elapsed / (self.done - self.first) * max(0, self.total - self.done)


class Job:
    """One piece of long work. The worker writes through `stage`, `advance` and `milestone`; pages read.

    Attributes:
        id: short, derived from the key, fit for a link.
        kind: which page it belongs to.
        label: what to call it, for people.
        spec: what a page needs to show it again after a refresh; read only.
        bundles: names of those whose files it reads or writes.
        personal: of no use but to its owners.
        result: what the work handed back.
        error: why it failed, None if it did not.
        faults: name → sentence, for parts that failed while the rest went on.
    """

    def __init__(
        self,
        key: str,
        kind: str,
        label: str,
        work: Callable[[Job], Any],
        spec: Any = None,
        bundles: Iterable[str] = (),
        personal: bool = False,
        aside: Callable[[], object] | None = None,
    ) -> None:
        self.id, self.kind, self.label, self.spec = job_id(key), kind, label, spec
        self.bundles, self.personal = frozenset(bundles), personal
        self.result: Any = None
        self.error: BaseException | None = None
        self.faults: dict[str, str] = {}
        self.owners: set[str] = set()
        self.state = QUEUED
        self._work: Callable[[Job], Any] | None = work
        self._aside = aside
        self._progress = Progress()
        self._curves: dict[str, list[float]] = {}
        self._cancel = threading.Event()
        self._changed = threading.Condition()

    # --- for pages ---

    @property
    def active(self) -> bool:
        return self.state in (QUEUED, RUNNING)

    @property
    def wanted(self) -> bool:
        return bool(self.owners) or not self.personal

    @property
    def progress(self) -> Progress:
        with self._changed:
            curves = {name: _thinned(values) for name, values in self._curves.items()}
            return replace(self._progress, curves=curves)

    def cancel(self) -> None:
        """Asks the work to stop at its next step."""
        self._cancel.set()
        with self._changed:
            if self.state == QUEUED:
                self.state, self._work = CANCELLED, None
            self._changed.notify_all()

    def wait(self, timeout: float | None = None, milestones: int | None = None) -> bool:
        """Waits for the end, or for so many milestones; says whether it came within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    not self.active or (milestones is not None and self._progress.milestones >= milestones)
                ),
                timeout,
            )

    # --- for workers ---

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def check(self) -> None:
        """Called at each step: lets what is more urgent go first, and ends a job that was asked to stop."""
        if self._aside is not None and not self.cancelled:
            self._aside()
        if self.cancelled:
            raise JobCancelled

    def stage(self, message: str, total: int = 0, first: int = 0) -> None:
        """Begins a part of the work, `first` of which is done already; its curves and pictures start anew."""
        with self._changed:
            self._curves = {}
            self._progress = Progress(
                message, first, total, first, time.monotonic(), milestones=self._progress.milestones
            )

    def advance(
        self,
        done: int,
        total: int | None = None,
        values: Mapping[str, float] | None = None,
        samples: tuple[np.ndarray, ...] | None = None,
    ) -> None:
        with self._changed:
            for name, value in (values or {}).items():
                self._curves.setdefault(name, []).append(float(value))
            now = self._progress
            self._progress = replace(
                now,
                done=done,
                total=now.total if total is None else total,
                samples=now.samples if samples is None else samples,
            )

    def new_curves(self) -> None:
        with self._changed:
            self._curves = {}

    def milestone(self) -> None:
        with self._changed:
            self._progress = replace(self._progress, milestones=self._progress.milestones + 1)
            self._changed.notify_all()

    # --- for the manager ---

    def run(self) -> None:
        with self._changed:
            if self.state != QUEUED or self._work is None:
                return
            work, self._work, self.state = self._work, None, RUNNING
        try:
            self.result = work(self)
            state = CANCELLED if self.cancelled else DONE
        except JobCancelled:
            state = CANCELLED
        except Exception as error:
            state = CANCELLED if _closing(error) else FAILED
            if state == FAILED:
                # Sentences for the visitor are ValueError and ArithmeticError; tracebacks for the terminal.
                log.warning("%s failed: %s", self.label, error, exc_info=not isinstance(error, ValueError))
                self.error = error.with_traceback(None)
        with self._changed:
            self.state = state
            self._changed.notify_all()


class JobManager:
    """Runs jobs one after the other in one thread, and remembers the last few that ended.

    Stopping the server does not wait for a training to end: every job is asked to stop at its next step, and
    files are written whole or not at all.

    Args:
        keep: how many ended jobs can still be asked for.
        after: called when a job has ended.
        aside: called at each step of a job; it may wait a little, for short work that shares the device.
    """

    def __init__(
        self,
        keep: int = 12,
        after: Callable[[], None] | None = None,
        aside: Callable[[], object] | None = None,
    ) -> None:
        self._keep, self._after, self._aside = keep, after, aside
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        atexit.register(self.shutdown)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Asks everything to stop and waits a little for the running step."""
        with self._wake:
            jobs, thread = list(self._jobs.values()), self._thread
        for job in jobs:
            job.cancel()
        for job in jobs:
            if job.state == RUNNING and thread is not None:
                job.wait(timeout)

    def submit(
        self,
        key: str,
        kind: str,
        label: str,
        work: Callable[[Job], Any],
        *,
        spec: Any = None,
        owner: str = "",
        bundles: Iterable[str] = (),
        personal: bool = False,
        apart: bool = False,
    ) -> Job:
        """Queues work; while work of the same key is queued or running, that job is given back instead.

        Args:
            key: names the input: the same key is the same work.
            owner: a session; `release` cancels a job that no owner wants any more.
            bundles: those whose files it reads or writes; see `unless_used`.
            personal: it is passed over where all its owners have left when its turn comes.
            apart: it computes nothing itself but waits for others, so it gets a thread of its own, at once.
        """
        with self._wake:
            job = self._jobs.get(job_id(key))
            if job is None or not job.active or job.cancelled:
                aside = None if apart else self._aside
                job = Job(key, kind, label, work, spec, bundles, personal, aside)
                self._jobs.pop(job.id, None)
                self._jobs[job.id] = job
                self._forget()
                if apart:
                    threading.Thread(target=job.run, name=f"anounet-{kind}", daemon=True).start()
                else:
                    self._queue.append(job)
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._loop, name="anounet-jobs", daemon=True)
                    self._thread.start()
                self._wake.notify()
            job.owners.add(owner)
            return job

    def note(self, key: str, kind: str, label: str, *, spec: Any = None) -> Job:
        """Remembers work that was done at once, so that a link to it finds what it was for."""
        with self._wake:
            job = self._jobs.get(job_id(key))
            if job is None:
                job = Job(key, kind, label, lambda job: None, spec)
                job.state, job._work = DONE, None
                self._jobs[job.id] = job
                self._forget()
            return job

    def get(self, job_id: str | None) -> Job | None:
        with self._wake:
            return self._jobs.get(job_id or "")

    def latest(self, kind: str, bundle: str) -> Job | None:
        """The job of a kind that was the last one to be handed in for a bundle."""
        with self._wake:
            jobs = (
                job for job in reversed(self._jobs.values()) if job.kind == kind and bundle in job.bundles
            )
            return next(jobs, None)

    def join(self, job: Job, owner: str) -> None:
        """Makes a session one of those that want a job."""
        with self._wake:
            if job.active:
                job.owners.add(owner)

    def leave(self, owner: str) -> None:
        """Takes a session that has gone off all jobs; none is stopped, as a page loaded anew joins again."""
        with self._wake:
            for job in self._jobs.values():
                job.owners.discard(owner)

    def release(self, job: Job | None, owner: str) -> None:
        """Cancels a job once the last session that asked for it has moved on."""
        with self._wake:
            if job is None:
                return
            job.owners.discard(owner)
            if not job.owners and job.active:
                job.cancel()

    def unless_used(self, bundle: str, change: Callable[[], None]) -> bool:
        """Changes a bundle's files, unless a job that is queued or running needs them; says whether it did.

        No job is taken on meanwhile, so `change` must be quick.
        """
        with self._wake:
            if any(job.active and bundle in job.bundles for job in self._jobs.values()):
                return False
            change()
            return True

    def ahead_of(self, job: Job) -> list[Job]:
        """The jobs that come before it, the running one first."""
        with self._wake:
            if job is self._running or not job.active or job not in self._queue:
                return []
            before = itertools.takewhile(lambda other: other is not job, self._queue)
            running = [self._running] if self._running is not None else []
            return [other for other in [*running, *(o for o in before if o.wanted)] if other.active]

    def _forget(self) -> None:
        ended = [known for known, job in self._jobs.items() if not job.active]
        for known in ended[: max(0, len(ended) - self._keep)]:
            del self._jobs[known]

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._queue:
                    self._wake.wait()
                self._running = self._queue.popleft()
                if not self._running.wanted:
                    self._running.cancel()
            try:
                self._running.run()
                if self._after is not None:
                    self._after()
            finally:
                with self._wake:
                    self._running = None
                    self._forget()


def _closing(error: Exception) -> bool:
    """Whether work broke off because the server is being stopped: pools end before jobs are asked to."""
    return isinstance(error, RuntimeError) and "new futures after" in str(error)


def job_id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]


@contextmanager
def closing_stream(stream: Generator[T, None, Any] | Iterator[T]) -> Iterator[Iterator[T]]:
    """Closes a generator however its consumer leaves, so that a cancelled run frees what it holds."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def _thinned(values: list[float]) -> tuple[float, ...]:
    if len(values) <= MAX_POINTS:
        return tuple(values)
    at = np.linspace(0, len(values) - 1, MAX_POINTS).round().astype(int)
    return tuple(np.asarray(values)[at].tolist())
