"""The connections between the processes of a launch, here between threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from utils import peers as peers_module
from utils import wire as wire_module
from utils.peers import PeerEnded, Peers
from utils.wire import Wire, connect

TEXT = "the disk is full"


class Board(dict):
    """A store of torch.distributed, as far as it is needed."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


@pytest.fixture(autouse=True)
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that processes are left with, instead of their end."""
    seconds: list[float] = []
    timer = peers_module.faulthandler
    monkeypatch.setattr(timer, "dump_traceback_later", lambda after, **_: seconds.append(after))
    return seconds


@pytest.fixture(params=[2, 4])
def launch(request: pytest.FixtureRequest) -> Iterator[list[Peers]]:
    """The processes of a launch; the board still has the address of one that is gone."""
    board, size = Board(), request.param
    with socket.create_server(("127.0.0.1", 0)) as gone:
        board.set("cspdet/peers", f"{gone.getsockname()[1]} oldword")
    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(lambda rank: connect(board, rank=rank, world_size=size, host=None), range(size)))
    assert len({word for _, word in found}) == 1
    everybody = [Peers(rank, wires) for rank, (wires, _) in enumerate(found)]
    yield everybody
    for each in everybody:
        each.close()


def at_once(launch: list[Peers], action: Callable[[Peers], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(launch)) as pool:
        return list(pool.map(action, launch))


def vanish(process: Peers) -> None:
    """What the operating system does when a process is killed."""
    process.closed = True  # its threads, which live on here, are to take no notice
    for wire in process.wires.values():
        wire.connection.shutdown(socket.SHUT_RDWR)


def test_a_process_on_its_own_waits_for_nobody() -> None:
    alone = Peers()
    assert alone.gather({"a": 1}) == [{"a": 1}]
    alone.wait_for_first()
    assert alone.blame() is None
    assert alone.fail(TEXT)
    alone.close()


def test_values_are_gathered_by_rank_again_and_again(launch: list[Peers]) -> None:
    for turn in range(3):
        expected = [[turn, rank] for rank in range(len(launch))]
        assert at_once(launch, lambda each, turn=turn: each.gather([turn, each.rank])) == [expected] * len(launch)


def test_the_others_wait_for_the_first(launch: list[Peers]) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            waiting = pool.submit(launch[-1].wait_for_first)
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            launch[0].wait_for_first()
            waiting.result(5)


@pytest.mark.parametrize("lost", [0, 1])
def test_whoever_waits_hears_that_a_process_was_killed(
    launch: list[Peers], lost: int, deaths: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    left = [each for each in launch if each.rank != lost]

    def wait(process: Peers) -> None:
        with pytest.raises(PeerEnded, match=f"rank {lost} has ended"):
            process.gather(None)

    with ThreadPoolExecutor(len(left)) as pool:
        waiting = [pool.submit(wait, each) for each in left]
        vanish(launch[lost])
        for each in waiting:
            each.result(10)
    assert all(each.blame().rank == lost for each in left)
    error = capsys.readouterr().err
    assert error.count(f"error: [rank {lost}] ended without a word") == 1
    assert deaths.count(peers_module.GRACE_SECONDS) >= len(left)


def test_an_error_of_all_is_said_by_rank_0(launch: list[Peers]) -> None:
    assert at_once(launch, lambda each: each.fail(TEXT)) == [True] + [False] * (len(launch) - 1)


def test_an_error_of_the_others_is_said_by_one_of_them(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "VERDICT_SECONDS", 0.3)
    said = at_once(launch[1:], lambda each: each.fail(TEXT))
    assert said.count(True) == 1
    assert launch[0].failure.text == TEXT


def test_errors_that_differ_are_all_said(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "VERDICT_SECONDS", 0.3)
    assert all(at_once(launch, lambda each: each.fail(f"{TEXT} in machine {each.rank}")))


def test_leaving_at_different_times_is_no_failure(launch: list[Peers], deaths: list[float]) -> None:
    for process in launch:  # rank 0 first
        process.close()
        threading.Event().wait(0.05)
    assert all(each.failure is None for each in launch)
    assert deaths == []


def test_who_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "CONNECT_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"rank 1, 2 did not come up within 0 s"):
        connect(Board(), rank=0, world_size=3, host=None)
    with pytest.raises(TimeoutError, match="rank 0 was not reached"):
        connect(Board(), rank=1, world_size=3, host=None)


def test_strangers_are_sent_away() -> None:
    """Neither somebody who knows no word, nor somebody who says nothing, becomes a rank."""
    board = Board()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(connect, board, rank=0, world_size=2, host=None)
        while "cspdet/peers" not in board:
            threading.Event().wait(0.01)
        port = int(board["cspdet/peers"].split()[0])
        stranger = Wire(socket.create_connection(("127.0.0.1", port)))
        stranger.send({"word": "guess", "rank": 1})
        assert list(stranger.messages()) == []
        second = pool.submit(connect, board, rank=1, world_size=2, host=None)
        wires = [each.result(10)[0] for each in (first, second)]
    assert [list(each) for each in wires] == [[1], [0]]
