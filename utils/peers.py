"""The processes of one launch, which meet in its store: each of them knows when another has ended, and why.

Collectives cannot tell: a process that waits for a dead one waits until its timeout. torchrun ends the other processes
of a machine, but not those of other machines. So every process counts up a number in the launch's store (torch's
TCPStore); where it stands still, the process has ended. Whatever may take long without a fault goes over the store too:
waiting for the slowest to read its data, or for rank 0 to count.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from utils.log import say_error

CONNECT_SECONDS = 180.0
"""Within which all processes of a launch must have come up; they start together and import the same packages."""
BEAT_SECONDS, SILENT_BEATS, FEW_BEATS = 1.0, 15, 3
"""How often a process counts up, and how many beats it misses when it has ended; few once a collective has failed."""
GRACE_SECONDS = 10.0
"""What is left to a process when one has ended, to come out of what it does by itself."""
VERDICT_SECONDS = 1.5
"""What processes end with within this time are causes of their own; what they end with later comes from the first."""
LEAVE_SECONDS = 4.0
"""How long a process waits for the others to say their cause: torchrun ends them when the first is gone."""
POLL_SECONDS = 0.05


class Store(Protocol):
    """What is used of a store of torch.distributed."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def check(self, keys: list[str]) -> bool: ...
    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


class PeerEnded(RuntimeError):
    """Another process of the launch has ended, and this one was waiting for it."""


class Failure(NamedTuple):
    """A process that has ended: why (None when it could not say), and when this process heard of it."""

    rank: int
    text: str | None
    heard: float


def join(store: Store, rank: int, world_size: int) -> str:
    """A word that the processes which are up now share: the store may be that of a launch before its restart.

    Rank 0 makes the word and confirms it to each other rank, which one that has ended cannot do.

    Raises:
        TimeoutError: a process did not come up.
    """
    own, until = secrets.token_hex(16), time.monotonic() + CONNECT_SECONDS
    if rank == 0:
        store.set("word", own)
        asking = [f"{own}/{other}" for other in range(1, world_size)]
        if not wait_for(store, asking, lambda: time.monotonic() > until):
            missing = ", ".join(key.split("/")[1] for key in asking if not store.check([key]))
            raise TimeoutError(f"rank {missing} did not come up within {CONNECT_SECONDS:.0f} s; see its output")
        for key in asking:
            store.set(f"{own}/{store.get(key).decode()}", "")
        return own
    while time.monotonic() < until:
        if store.check(["word"]):
            word = store.get("word").decode()
            store.set(f"{word}/{rank}", own)
            if store.check([f"{word}/{own}"]):
                return word
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"rank 0 was not reached within {CONNECT_SECONDS:.0f} s; see its output")


def wait_for(store: Store, keys: list[str], stop: Callable[[], bool]) -> bool:
    """Wait until the keys are there; False where `stop` comes first."""
    while not store.check(keys):
        if stop():
            return False
        time.sleep(POLL_SECONDS)
    return True


class Peers:
    """The processes of a launch, seen from one of them.

    Args:
        rank: of this process, among `world_size`.
        store: known to these processes alone; see `join`.
        beats: the same store over a second connection: a process group may occupy the first for long.
        speaks: this process tells the user when the store is gone; one on each machine does.
    """

    def __init__(self, rank: int, world_size: int, store: Store, beats: Store, *, speaks: bool) -> None:
        self.rank, self.ranks, self.store, self.beats, self.speaks = rank, range(world_size), store, beats, speaks
        self.failure: Failure | None = None
        self.rounds = self.turns = 0
        self.watched: Iterable[int] = self.ranks if rank == 0 else (0, rank)  # not all by all, which would be many
        self.patience, self.seen = SILENT_BEATS, {rank: 0}  # its own beats count as missed from the start
        self.closed = threading.Event()
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._beat, self._judge)]
        for thread in self.threads:
            thread.start()

    def gather(self, value: Any) -> list[Any]:
        """A small plain value of each process, by rank, as soon as the slowest has come here.

        Raises:
            PeerEnded: that will not happen.
        """
        self.rounds += 1
        keys = [f"value/{self.rounds}/{rank}" for rank in self.ranks]
        self.store.set(keys[self.rank], json.dumps(value))
        self._wait_for(keys)
        return [json.loads(self.store.get(key)) for key in keys]

    def wait_for_first(self) -> None:
        """Ranks other than 0 wait here until rank 0 has come here too, however long that takes.

        Raises:
            PeerEnded: it will not come.
        """
        self.turns += 1
        if self.rank == 0:
            self.store.set(f"turn/{self.turns}", "")
        else:
            self._wait_for([f"turn/{self.turns}"])

    def fail(self, text: str) -> bool:
        """Tell the others why this process ends; returns whether it is this one that says so to the user.

        What all end with is said by rank 0, and what follows from the end of another by nobody.
        """
        first, now = self.failure, time.monotonic()
        if first and first.rank != self.rank and (first.text is None or now > first.heard + VERDICT_SECONDS):
            return False
        with contextlib.suppress(RuntimeError):  # the store is gone: this process may be the last
            self.store.compare_set("failed", "", json.dumps([self.rank, text]))
            wait_for(self.store, [f"said/{text}"], lambda: not self.rank or time.monotonic() > now + VERDICT_SECONDS)
            return self.store.add(f"said/{text}", 1) == 1
        return True

    def another_ended(self) -> bool:
        """Whether another process has ended; asked when a collective has failed, so that few missed beats tell."""
        self.watched, self.patience = self.ranks, FEW_BEATS
        until = time.monotonic() + (FEW_BEATS + 3) * BEAT_SECONDS
        while self.failure is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return self.failure is not None

    def leave(self) -> None:
        """This process is done. It waits for the others, which may need the store; after a failure not for long."""

        def in_vain() -> bool:
            return self.failure is not None and (self.failure.text is None or time.monotonic() > late)

        late = time.monotonic() + LEAVE_SECONDS
        with contextlib.suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")
            left = [f"left/{rank}" for rank in self.ranks]
            wait_for(self.store, left, in_vain)
        self.closed.set()
        for thread in self.threads:
            thread.join(2 * BEAT_SECONDS)

    def _wait_for(self, keys: list[str]) -> None:
        if not wait_for(self.store, keys, lambda: self.failure is not None):
            raise PeerEnded("another process has ended")

    def _beat(self) -> None:
        """In a thread: count up, and see how far the others are, until the store is gone."""
        with contextlib.suppress(RuntimeError):
            while True:
                ranks = {self.rank, *self.watched}
                self.seen = {rank: self.beats.add(f"beat/{rank}", int(rank == self.rank)) for rank in ranks}
                if self.beats.check(["failed"]):
                    self._note(*json.loads(self.beats.get("failed"))[:2])
                if self.closed.wait(BEAT_SECONDS):
                    return
        self.patience = FEW_BEATS

    def _judge(self) -> None:
        """In a second thread, because the first hangs when the machine that has the store is gone: who is silent?

        Beats are counted, not seconds: what keeps a process from beating (a large file to parse) keeps all.
        """
        before, missed = dict[int, int](), Counter[int]()
        while not self.closed.wait(BEAT_SECONDS) and self.failure is None:
            seen = self.seen
            for rank, number in seen.items():
                missed[rank] = missed[rank] + 1 if before.get(rank) == number else 0
            before = seen
            silent = [rank for rank in sorted(seen) if missed[rank] > self.patience]
            if silent:  # where this process's own beats do not arrive, the store is gone
                self._miss(0 if self.rank in silent else silent[0], store_is_gone=self.rank in silent)

    def _miss(self, rank: int, *, store_is_gone: bool) -> None:
        """A process has ended without a word: one of the others says so."""
        self._note(rank, None)
        says, own = self.speaks, json.dumps([rank, None, self.rank])
        if not store_is_gone:
            with contextlib.suppress(RuntimeError):
                says = self.beats.compare_set("failed", "", own).decode() == own
        if says:
            who = "torchrun" if rank == self.rank else f"[rank {rank}]"
            say(f"{who} ended without a word: killed, out of memory or crashed; see its output")

    def _note(self, rank: int, text: str | None) -> None:
        """A process has ended: so will this one, by a timer that needs no Python, which a computation may hold."""
        if self.failure is None:
            self.failure = Failure(rank, text, time.monotonic())
            self.nowhere = open(os.devnull, "w")  # noqa: SIM115
            faulthandler.dump_traceback_later(GRACE_SECONDS, exit=True, file=self.nowhere)


def say(text: str) -> None:
    """An error for the user."""
    say_error(text)
