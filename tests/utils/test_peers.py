"""The processes of a launch and their store, here as threads around torch's store of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting  # the built-in one only from Python 3.11 on
from typing import Any

import pytest
from torch.distributed import HashStore

from utils import dist
from utils import peers as peers_module
from utils.peers import PeerEnded, Peers, join

TEXT = "the disk is full"


class Lost(HashStore):
    """A store whose machine has ended, or does not answer."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__()
        self.answer: Callable[[], Any] | None = None
        self.later = answer

    def add(self, key: str, amount: int) -> int:
        return super().add(key, amount) if self.answer is None else self.answer()

    def lose(self) -> None:
        self.answer = self.later


@pytest.fixture(autouse=True)
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that processes are left with, instead of their end; beats are faster."""
    seconds: list[float] = []
    monkeypatch.setattr(peers_module.faulthandler, "dump_traceback_later", lambda after, **_: seconds.append(after))
    monkeypatch.setattr(peers_module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(peers_module, "LEAVE_SECONDS", 0.3)
    return seconds


@pytest.fixture(params=[2, 4])
def launch(request: pytest.FixtureRequest) -> Iterator[list[Peers]]:
    """The processes of a launch."""
    store, size = HashStore(), request.param
    everybody = [Peers(rank, size, store, store, speaks=rank == 0) for rank in range(size)]
    yield everybody
    at_once(everybody, Peers.leave)


def at_once(launch: list[Peers], action: Callable[[Peers], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(launch)) as pool:
        return list(pool.map(action, launch))


def end(process: Peers) -> None:
    """Leave, and let its threads finish, however busy the machine is."""
    process.leave()
    for thread in process.threads:
        thread.join(30)


def wait(process: Peers) -> None:
    with pytest.raises(PeerEnded):
        process.gather(None)


def test_a_process_on_its_own_waits_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert dist.exchange({"a": 1}) == [{"a": 1}]
    dist.wait_for_first_rank()
    assert not dist.another_ended()
    dist.fail(TEXT)
    assert capsys.readouterr().err == f"error: {TEXT}\n"


def test_values_are_gathered_by_rank_again_and_again(launch: list[Peers]) -> None:
    for turn in range(3):
        expected = [[turn, rank] for rank in range(len(launch))]
        assert at_once(launch, lambda each, turn=turn: each.gather([turn, each.rank])) == [expected] * len(launch)


def test_the_others_wait_for_the_first(launch: list[Peers]) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            waiting = pool.submit(launch[-1].wait_for_first)
            with pytest.raises(StillWaiting):
                waiting.result(0.1)
            launch[0].wait_for_first()
            waiting.result(5)


@pytest.mark.parametrize("lost", [0, 1])
def test_whoever_waits_hears_that_a_process_was_killed(
    launch: list[Peers], lost: int, deaths: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    left = [each for each in launch if each.rank != lost]
    time.sleep(0.2)
    launch[lost].closed.set()  # beats no more
    at_once(left, wait)
    assert all(each.another_ended() and each.failure.rank == lost for each in left)
    assert deaths == [peers_module.GRACE_SECONDS] * len(left)
    at_once(left, end)
    assert capsys.readouterr().err.count(f"error: [rank {lost}] ended without a word") == 1


def test_after_a_failed_collective_few_missed_beats_tell(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "BEAT_SECONDS", 0.2)
    assert not any(at_once(launch, Peers.another_ended))
    launch[-1].closed.set()
    assert all(at_once(launch[:-1], Peers.another_ended))


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("from_the_start", [False, True])
def test_without_its_store_a_process_ends(
    hangs: bool, from_the_start: bool, deaths: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine of the store refuses connections, or answers nothing; perhaps before the first beat."""
    released = threading.Event()

    def answer() -> None:
        released.wait(30 if hangs else 0)
        raise RuntimeError("connection reset by peer")

    stores = [Lost(answer), Lost(answer)]
    if from_the_start:
        stores[1].lose()
    left = [Peers(rank, 4, stores[0], stores[1], speaks=rank == 2) for rank in (2, 3)]
    if not from_the_start:
        stores[1].lose()
    at_once(left, wait)
    released.set()
    at_once(left, end)
    assert len(deaths) == 2
    assert capsys.readouterr().err.count("error: [rank 0] ended without a word") == 1


def test_an_error_of_all_is_said_by_rank_0(launch: list[Peers]) -> None:
    assert at_once(launch, lambda each: each.fail(TEXT)) == [True] + [False] * (len(launch) - 1)


def test_an_error_of_the_others_is_said_by_one_of_them(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "VERDICT_SECONDS", 0.3)
    assert at_once(launch[1:], lambda each: each.fail(TEXT)).count(True) == 1
    wait(launch[0])
    assert launch[0].failure.text == TEXT


def test_errors_that_differ_are_all_said(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "VERDICT_SECONDS", 0.3)
    assert all(at_once(launch, lambda each: each.fail(f"{TEXT} in machine {each.rank}")))


def test_what_comes_later_follows_from_the_first(launch: list[Peers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "VERDICT_SECONDS", 0.1)
    assert launch[1].fail(TEXT)
    at_once([launch[0], *launch[2:]], wait)
    time.sleep(0.2)
    assert not any(at_once([launch[0], *launch[2:]], lambda each: each.fail("nobody answers")))


def test_who_leaves_waits_for_the_others(launch: list[Peers], deaths: list[float]) -> None:
    with ThreadPoolExecutor(len(launch)) as pool:
        leaving = [pool.submit(each.leave) for each in launch[:-1]]
        with pytest.raises(StillWaiting):  # longer than after a failure, and than a dead process goes unnoticed
            leaving[0].result(0.05 * peers_module.SILENT_BEATS + 0.5)
        launch[-1].leave()
        for each in leaving:
            each.result(5)
    assert all(each.failure is None for each in launch)
    assert deaths == []


def test_processes_meet_in_a_store_that_remembers_a_launch_before() -> None:
    store, size = HashStore(), 3
    words = set()
    for _ in range(2):
        with ThreadPoolExecutor(size) as pool:
            others = [pool.submit(join, store, rank, size) for rank in (1, 2)]
            time.sleep(0.2)  # they find the word of the launch before, which nobody confirms
            assert not any(each.done() for each in others)
            found = {join(store, 0, size), *(each.result(5) for each in others)}
        assert len(found) == 1
        assert not words & found
        words |= found


def test_who_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "CONNECT_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"rank 1, 2 did not come up within 0 s"):
        join(HashStore(), 0, 3)
    with pytest.raises(TimeoutError, match="rank 0 was not reached"):
        join(HashStore(), 1, 3)
