"""utils/dist.py: what ranks hand over; they are threads here, and tests/test_ddp.py has real ones."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from utils import dist

Together = Callable[[int, Callable[[int], Any]], list[Any]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    """together(size, work): the results of `work(rank)` of so many ranks at once."""

    def run(size: int, work: Callable[[int], Any]) -> list[Any]:
        here, barrier, values = threading.local(), threading.Barrier(size, timeout=20), [None] * size
        pipes: list[SimpleQueue] = [SimpleQueue() for _ in range(size)]

        def gather(value: Any) -> list[Any]:
            values[here.rank] = value
            barrier.wait()
            result = list(values)
            barrier.wait()
            return result

        def send(tensor: torch.Tensor, target: int) -> None:
            assert target == 0
            assert len(tensor) <= dist.PIECE
            pipes[here.rank].put(tensor.clone())

        def receive(tensor: torch.Tensor, source: int) -> None:
            tensor.copy_(pipes[source].get(timeout=20))

        def start(rank: int) -> Any:
            here.rank = rank
            return work(rank)

        monkeypatch.setattr(dist, "is_distributed", lambda: True)
        monkeypatch.setattr(dist, "rank", lambda: here.rank)
        monkeypatch.setattr(dist, "world_size", lambda: size)
        monkeypatch.setattr(dist, "gather", gather)
        monkeypatch.setattr(dist, "_bytes_device", lambda: None)
        monkeypatch.setattr(dist.dist, "send", send)
        monkeypatch.setattr(dist.dist, "recv", receive)
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(start, range(size)))

    return run


def test_the_last_reference_to_a_group_goes_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch 2.6 and 2.7, a gloo group whose last reference goes in torch's own code may wait for ever."""

    class Group:
        pass

    torchs, seen = SimpleNamespace(WORLD=Group()), []
    group = weakref.ref(torchs.WORLD)

    def destroy() -> None:
        torchs.WORLD = None
        seen.append(group() is not None)

    monkeypatch.setattr(dist._Now, "store", HashStore())
    monkeypatch.setattr(dist._Now, "groups", 0)
    monkeypatch.setattr(dist.dist, "group", torchs)
    monkeypatch.setattr(dist.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist.dist, "destroy_process_group", destroy)
    with dist.process_group(torch.device("cpu")):
        assert seen == []
    assert seen == [True]
    assert group() is None, "and no other is kept"


def test_one_process_collects_nothing_from_others() -> None:
    assert list(dist.collect([1, 2])) == []


@pytest.mark.parametrize("piece", [1, 7, 1 << 24])
def test_rank_0_alone_gets_the_values_of_the_others(
    together: Together, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """In pieces, which may end in the middle of a letter; an empty value has a text too."""
    monkeypatch.setattr(dist, "PIECE", piece)
    values = [["own"], [], [{"score": 0.1 + 0.2, "name": "ä" * 20}], [1, None]]
    found = together(4, lambda rank: list(dist.collect(values[rank])))
    assert found == [values[1:], [], [], []]


def test_rank_0_makes_one_value_at_a_time(together: Together, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = dist.json.loads
    monkeypatch.setattr(dist.json, "loads", lambda text: (made.append("x"), real(text))[1])

    def first(rank: int) -> Any:
        values: Iterator[Any] = dist.collect([rank])
        return None if rank else (next(values), len(made))

    assert together(3, first)[0] == ([1], 1)
