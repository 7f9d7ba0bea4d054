"""Work on threads whose results come in order: what is held, what is given out, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from anounet.ordered import in_order


def counted(count: int, taken: list[int]) -> Iterator[int]:
    for number in range(count):
        taken.append(number)
        yield number


def test_results_come_in_order_whatever_is_ready_first() -> None:
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(30)
        if number == 1:
            second.set()
        return number * number

    assert list(in_order(range(9), work, 2, 4)) == [n * n for n in range(9)]


def test_no_more_is_taken_than_may_be_held() -> None:
    taken: list[int] = []
    results = in_order(counted(20, taken), lambda n: n, 2, 3)
    assert next(results) == 0 and len(taken) == 4
    assert next(results) == 1 and len(taken) == 5
    results.close()
    assert len(taken) == 5


def test_with_none_held_each_is_given_out_before_the_next_one_is_taken() -> None:
    taken: list[int] = []
    for number in in_order(counted(5, taken), lambda n: n, 2, 0, eager=True):
        assert taken[-1] == number


def test_eager_gives_out_what_is_ready_and_waits_for_nothing_else() -> None:
    taken: list[int] = []
    done = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in counted(6, taken):
            if number:
                assert done.acquire(timeout=30)  # the item before has been worked on
            yield number

    for number in in_order(items(), lambda n: done.release() or n, 1, 100, eager=True):
        if number == 0:
            assert len(taken) < 6
    assert taken == list(range(6))


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise OSError("disk full")
        return number

    results = in_order(range(100), work, 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="disk full"):
        next(results)
