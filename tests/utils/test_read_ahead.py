"""utils/read_ahead.py: order, errors, depth, and late items."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from utils.read_ahead import ReadAhead


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
