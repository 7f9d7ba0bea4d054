"""Work on threads whose results come in the order of what they are made from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T], work: Callable[[T], R], threads: int | Executor, most: int, *, eager: bool = False
) -> Iterator[R]:
    """What `work` makes of each item, on threads, in order.

    Args:
        threads: so many of its own, or a pool, which is left open.
        most: items at a time that are taken and not yet given out; 0: each before the next one is taken.
        eager: give out what is ready before the next item is taken: for items that take long to come.
    """
    with ThreadPoolExecutor(threads) if isinstance(threads, int) else nullcontext(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                while waiting and (len(waiting) > most or (eager and waiting[0].done())):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
