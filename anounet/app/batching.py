"""One queue before the model, for answers that are quick: what waits together is computed together.

Nobody waits for a timer. On an idle server an image is computed at once; what is asked for meanwhile forms
the next pass, in order of arrival. The same image asked for twice is computed once, whoever asks. Nothing
here knows Streamlit, nor what is computed.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

MOST = 32  # images of one pass
REST = 5.0  # seconds without work after which `rested` is called


class Store(Protocol[R]):
    """Where answers are kept: a `ResultCache`."""

    def get(self, key: str) -> R | None: ...

    def put(self, key: str, result: R) -> None: ...


@dataclass(eq=False)
class _Piece(Generic[T, R]):
    """One image to compute, and who waits for it."""

    key: str
    item: T
    group: Hashable
    compute: Callable[[Sequence[T]], Iterable[R | Exception]]
    tickets: list[Ticket[R]] = field(default_factory=list)


@dataclass(frozen=True)
class Counts:
    """What a batcher has done so far."""

    tickets: int = 0  # that were asked for
    images: int = 0  # that were computed
    passes: int = 0  # that they were computed in


class Ticket(Generic[R]):
    """What one visitor asked for, and his place in the queue. `leave` it, however the waiting ends.

    Attributes:
        answers: key → answer, or why there is none; complete once `wait` says so.
    """

    def __init__(self, batcher: Batcher[Any, R]) -> None:
        self.answers: dict[str, R | Exception] = {}
        self._batcher = batcher
        self._open: set[str] = set()
        self._done = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until all is answered; says whether that came within `timeout` seconds."""
        return self._done.wait(timeout)

    def leave(self) -> None:
        """Gives up what nobody else waits for and is not being computed yet."""
        self._batcher._leave(self)

    @property
    def ahead(self) -> int:
        """How many visitors come before this one."""
        return self._batcher._ahead(self)

    @property
    def seconds(self) -> float | None:
        """About how long it will take, at the pace so far; None before there is a pace."""
        return self._batcher._seconds(self)


class Batcher(Generic[T, R]):
    """Computes what is asked for in one thread, a pass at a time.

    Args:
        kept: where answers come from, if they are there, and go to.
        most: images of one pass.
        begin: called first in that thread.
        rested: called in it when there has been nothing to do for `REST` seconds after some work.
    """

    def __init__(
        self,
        kept: Store[R],
        most: int = MOST,
        begin: Callable[[], None] | None = None,
        rested: Callable[[], None] | None = None,
    ) -> None:
        self._kept, self._most, self._begin, self._rested = kept, most, begin, rested
        self._waiting: dict[str, _Piece[T, R]] = {}  # in order of arrival
        self._running: dict[str, _Piece[T, R]] = {}
        self._tickets: dict[Ticket[R], None] = {}  # that still miss something, in order of arrival
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._counts = Counts()
        self._pace: float | None = None  # seconds an image

    @property
    def counts(self) -> Counts:
        with self._wake:
            return self._counts

    def ask(
        self,
        group: Hashable,
        compute: Callable[[Sequence[T]], Iterable[R | Exception]],
        wanted: Mapping[str, T],
    ) -> Ticket[R]:
        """Queues what is neither kept nor asked for already.

        Args:
            group: images of one group can share a pass.
            compute: images of the group → an answer or an error for each, in order. Where it raises, the
                images that it gave no answer for are tried one by one, so that one cannot fail another.
            wanted: key → image; the same key is the same answer.
        """
        ticket: Ticket[R] = Ticket(self)
        with self._wake:
            self._counts = Counts(self._counts.tickets + 1, self._counts.images, self._counts.passes)
            for key, item in wanted.items():
                # An answer is kept before its image is taken off `_running`: one of the three has it.
                piece = self._running.get(key) or self._waiting.get(key)
                if piece is None and (known := self._kept.get(key)) is not None:
                    ticket.answers[key] = known
                    continue
                if piece is None:
                    piece = self._waiting[key] = _Piece(key, item, group, compute)
                piece.tickets.append(ticket)
                ticket._open.add(key)
            if not ticket._open:
                ticket._done.set()
                return ticket
            self._tickets[ticket] = None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="anounet-batches", daemon=True)
                self._thread.start()
            self._wake.notify_all()  # `step_aside` waits for the same condition
        return ticket

    def step_aside(self, timeout: float) -> bool:
        """For other work on the device: waits until nothing is asked for; says whether that came in time."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting and not self._running, timeout)

    # --- for tickets ---

    def _leave(self, ticket: Ticket[R]) -> None:
        with self._wake:
            self._tickets.pop(ticket, None)
            for key in ticket._open:
                piece = self._running.get(key) or self._waiting.get(key)
                if piece is None:
                    continue
                piece.tickets.remove(ticket)
                if not piece.tickets:
                    self._waiting.pop(key, None)  # one that is being computed goes on, and is kept
            ticket._open.clear()
            if not self._running and not self._waiting:
                self._wake.notify_all()

    def _ahead(self, ticket: Ticket[R]) -> int:
        with self._wake:
            if ticket not in self._tickets:
                return 0
            return sum(1 for _ in itertools.takewhile(lambda other: other is not ticket, self._tickets))

    def _seconds(self, ticket: Ticket[R]) -> float | None:
        with self._wake:
            if self._pace is None:
                return None
            ends = [n for n, key in enumerate([*self._running, *self._waiting], 1) if key in ticket._open]
            return self._pace * max(ends, default=0)

    # --- the one thread ---

    def _loop(self) -> None:
        worked = False
        if self._begin is not None:
            self._begin()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._waiting), REST if worked else None)
                batch = self._take()
            if batch:
                self._pass(batch)
            elif self._rested is not None:
                self._rested()
            worked = bool(batch)

    def _take(self) -> list[_Piece[T, R]]:
        """The next pass: the one that has waited longest, and what waits of its group."""
        first = next(iter(self._waiting.values()), None)
        if first is None:
            return []
        alike = (piece for piece in self._waiting.values() if piece.group == first.group)
        batch = list(itertools.islice(alike, self._most))
        for piece in batch:
            self._running[piece.key] = self._waiting.pop(piece.key)
        return batch

    def _pass(self, batch: list[_Piece[T, R]]) -> None:
        begun, visitors = time.monotonic(), len({ticket for piece in batch for ticket in piece.tickets})
        self._compute(batch)
        pace = (time.monotonic() - begun) / len(batch)
        with self._wake:
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
            counts = self._counts
            self._counts = Counts(counts.tickets, counts.images + len(batch), counts.passes + 1)
            waiting = len(self._waiting)
        log.info(
            "pass: %d images for %d visitors, %.3f s an image, %d images wait",
            len(batch),
            visitors,
            pace,
            waiting,
        )

    def _compute(self, batch: list[_Piece[T, R]]) -> None:
        answered = 0
        try:
            answers = batch[0].compute([piece.item for piece in batch])
            for piece, answer in zip(batch, answers, strict=True):
                self._answer(piece, answer)
                answered += 1
        except Exception as error:
            left = batch[answered:]
            if len(batch) == 1 and left:
                # Without its traceback: frames would keep tensors alive.
                self._answer(left[0], error.with_traceback(None))
            else:
                for piece in left:
                    self._compute([piece])

    def _answer(self, piece: _Piece[T, R], answer: R | Exception) -> None:
        if not isinstance(answer, Exception):
            self._kept.put(piece.key, answer)
        with self._wake:
            del self._running[piece.key]
            if not self._running and not self._waiting:
                self._wake.notify_all()
            for ticket in piece.tickets:
                ticket.answers[piece.key] = answer
                ticket._open.discard(piece.key)
                if not ticket._open:
                    self._tickets.pop(ticket, None)
                    ticket._done.set()
