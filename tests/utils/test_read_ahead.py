"""utils/read_ahead.py: order, errors, depth, late items, and several items at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from utils.read_ahead import ReadAhead, side_by_side


def test_nothing_is_read_ahead_of_nothing() -> None:
    assert list(ReadAhead([], depth=1)) == []


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_items_come_in_their_order(depth: int) -> None:
    ahead = ReadAhead(range(50), depth=depth)
    assert list(ahead) == list(range(50))
    assert ahead.dropped == 0


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    ahead = ReadAhead(items(), depth=5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert list(ahead) == []


def test_it_runs_ahead_by_its_depth_and_closing_stops_it() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    ahead = ReadAhead(items(), depth=4)
    assert next(ahead) == 0
    limit = time.monotonic() + 5
    while len(made) < 6 and time.monotonic() < limit:  # one taken, four waiting, one in hand
        time.sleep(0.005)
    time.sleep(0.02)
    assert len(made) == 6
    ahead.close()
    assert len(made) <= 7
    assert list(ahead) == []


def test_late_items_give_way_to_the_newest() -> None:
    finished = threading.Event()

    def items() -> Iterator[tuple[str, int]]:
        yield from [("file", 0), ("file", 1)]
        yield from [("camera", number) for number in range(10)]
        finished.set()

    ahead = ReadAhead(items(), depth=4, may_drop=lambda item: item[0] == "camera")
    assert finished.wait(5)
    assert list(ahead) == [("file", 0), ("file", 1), ("camera", 9)]
    assert ahead.dropped == 9


def nothing() -> None:
    pass


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_of_several_threads_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.01 if item < 3 else 0)
        return -item

    assert list(side_by_side(slow_at_first, range(50), threads=threads, begin=nothing)) == [-i for i in range(50)]
    assert list(side_by_side(slow_at_first, [], threads=threads, begin=nothing)) == []


def test_items_are_worked_on_at_once_in_threads_that_were_told_so() -> None:
    together, begun = threading.Barrier(2, timeout=30), set[str]()

    def meet(_: int) -> str:
        together.wait()  # breaks where one thread works alone
        return threading.current_thread().name

    names = list(side_by_side(meet, range(4), threads=2, begin=lambda: begun.add(threading.current_thread().name)))
    assert set(names) == begun
    assert len(begun) == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_thread_comes_after_the_results_before_it(threads: int) -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("broken")
        return item

    results = side_by_side(fail, range(10), threads=threads, begin=nothing)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(results)


def test_several_threads_take_few_items_ahead_and_end_when_left_early() -> None:
    taken = []
    results = side_by_side(abs, (taken.append(i) or i for i in range(100)), threads=3, begin=nothing)  # type: ignore[func-returns-value]
    assert next(results) == 0
    assert len(taken) == 4
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("side-by-side")]
