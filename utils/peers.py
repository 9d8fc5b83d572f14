"""The processes of one launch: each of them knows at once when another has ended, and why.

Collectives cannot tell: a process that waits for a dead one waits until its timeout. So every process keeps a
connection to rank 0, which the operating system closes when the process ends, however that happens. Whatever may take
long without a fault goes over it too: waiting for the slowest to read its data, or for rank 0 to count.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from utils.wire import Wire

GRACE_SECONDS = 6.0
"""What is left to a process when another has ended, to come out of what it does by itself."""
VERDICT_SECONDS = 1.5
"""Within which processes that end for reasons of their own do so; what they end with later comes from the first.

So long rank 0 is given to end with the same message as another rank, which then keeps silent.
"""


class PeerEnded(RuntimeError):
    """Another process of the launch has ended, and this one was waiting for it."""


@dataclass(frozen=True)
class Failure:
    """Why a process ended; without `text` when it could not say."""

    rank: int
    text: str | None


class Peers:
    """The processes of a launch, seen from one of them.

    Rank 0 is connected to every other, and passes on what all must know.

    Args:
        rank: of this process.
        wires: to each other rank, on rank 0; to rank 0, on the others; none for a process on its own.
    """

    def __init__(self, rank: int = 0, wires: Mapping[int, Wire] | None = None) -> None:
        self.rank = rank
        self.wires = dict(wires or {})
        self.changed = threading.Condition()
        self.failure: Failure | None = None
        self.said: set[str] = set()  # what rank 0 has said, or left to another
        self.verdict: bool | None = None
        self.failed: set[int] = set()
        self.done: set[int] = set()
        self.gone: set[int] = set()
        self.failing = self.closed = False
        self.told_at = math.inf
        self.round = self.turn = self.turns_seen = 0
        self.values: dict[int, dict[int, Any]] = {}
        self.gathered: dict[int, list[Any]] = {}
        for other, wire in self.wires.items():
            threading.Thread(target=self._listen, args=(other, wire), daemon=True, name=f"rank {other}").start()

    # What the process itself calls

    def gather(self, value: Any) -> list[Any]:
        """A small plain value of each process, by rank, as soon as the slowest has come here.

        Raises:
            PeerEnded: that will not happen.
        """
        self.round += 1
        number = self.round
        if self.rank == 0:
            self._collect(0, number, value)
        else:
            self._tell(kind="value", round=number, value=value)
        self._wait_until(lambda: number in self.gathered)
        return self.gathered.pop(number)

    def wait_for_first(self) -> None:
        """Ranks other than 0 wait here until rank 0 has come here too, however long that takes.

        Raises:
            PeerEnded: it will not come.
        """
        self.turn += 1
        number = self.turn
        if self.rank == 0:
            self._tell(kind="turn", number=number)
        else:
            self._wait_until(lambda: self.turns_seen >= number)

    def fail(self, text: str) -> bool:
        """Tell the others why this process ends; returns whether it is this one that says so to the user.

        What all end with is said by rank 0, and what follows from the end of another by nobody.
        """
        if not self.wires:  # a process on its own
            return True
        self.failing = True
        with self.changed:
            killed = self.failure is not None and self.failure.text is None
            if killed or time.monotonic() > self.told_at + VERDICT_SECONDS:
                return False
        self._tell(kind="failed", rank=self.rank, text=text)
        with self.changed:
            if self.rank == 0:
                new = text not in self.said
                self.said.add(text)
            else:
                self.changed.wait_for(
                    lambda: self.verdict is not None or text in self.said or 0 in self.gone, 3 * VERDICT_SECONDS
                )
                new = self.verdict is not False and text not in self.said
        return new

    def blame(self) -> Failure | None:
        """Which other process has ended, if one has: asked when a collective fails, which may be noticed sooner.

        It is left the time to say why: when this process is gone, torchrun ends all others.
        """
        with self.changed:
            if self.wires:
                self.changed.wait_for(lambda: self.failure is not None, 3.0)
            if self.failure is not None:
                self.changed.wait_for(lambda: self.failed <= self.gone, 4 * VERDICT_SECONDS)
            return self.failure

    def close(self) -> None:
        """This process is done."""
        self._tell(kind="done")
        if self.failing and self.rank == 0:  # when it is gone, torchrun ends the others: let them end by themselves
            with self.changed:
                self.changed.wait_for(lambda: set(self.wires) <= self.gone, VERDICT_SECONDS)
        with self.changed:
            self.closed = True
        for wire in self.wires.values():
            wire.finish()

    # What comes from the others, each in its own thread

    def _listen(self, other: int, wire: Wire) -> None:
        for message in wire.messages():
            self._receive(other, message)
        with self.changed:
            expected = self.closed or other in self.done or other in self.failed
        if not expected:
            self._note(Failure(other, None))
        self._see_off(other)

    def _receive(self, other: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "value":
            self._collect(other, message["round"], message["value"])
        elif kind == "failed":
            self._note(Failure(message["rank"], message["text"]))
        elif kind == "gone":
            self._see_off(message["rank"])
        else:
            with self.changed:
                if kind == "values":
                    self.gathered[message["round"]] = message["values"]
                elif kind == "turn":
                    self.turns_seen = message["number"]
                elif kind == "verdict":
                    self.verdict = message["say"]
                elif kind == "done":
                    self.done.add(other)
                self.changed.notify_all()

    def _collect(self, rank: int, number: int, value: Any) -> None:
        """On rank 0: one value of a `gather`; the last of them completes it."""
        with self.changed:
            values = self.values.setdefault(number, {})
            values[rank] = value
            if len(values) <= len(self.wires):
                return
            everything = [values[each] for each in sorted(self.values.pop(number))]
            self.gathered[number] = everything
            self.changed.notify_all()
        self._tell(kind="values", round=number, values=everything)

    def _note(self, failure: Failure) -> None:
        """Another process has ended too early: pass it on, and see to it that this one ends."""
        with self.changed:
            if self.closed:
                return
            self.failed.add(failure.rank)
            if failure.rank == 0 and failure.text is not None:
                self.said.add(failure.text)
            first, self.failure = self.failure is None, self.failure or failure
            if first:  # ended by a timer that needs no Python, which a long computation may hold
                self.told_at = time.monotonic()
                self.nowhere = open(os.devnull, "w")  # noqa: SIM115
                faulthandler.dump_traceback_later(GRACE_SECONDS, exit=True, file=self.nowhere)
            self.changed.notify_all()
        if self.rank == 0:
            self._tell(kind="failed", rank=failure.rank, text=failure.text, but=failure.rank)
            if failure.text is not None:
                threading.Timer(VERDICT_SECONDS, self._judge, args=(failure,)).start()
        speaker = 1 if failure.rank == 0 else 0
        if first and failure.text is None and self.rank == speaker and not self.failing:
            say(f"[rank {failure.rank}] ended without a word: killed, out of memory or crashed; see its output")

    def _see_off(self, other: int) -> None:
        """A process is gone, one way or another."""
        with self.changed:
            self.gone.add(other)
            self.changed.notify_all()
        if self.rank == 0:
            self._tell(kind="gone", rank=other, but=other)

    def _judge(self, failure: Failure) -> None:
        """On rank 0: whether another rank is to say what it ends with, or it has been said already."""
        with self.changed:
            new = failure.text not in self.said
            self.said.add(str(failure.text))
        self.wires[failure.rank].send({"kind": "verdict", "say": new})

    def _tell(self, *, but: int | None = None, **message: Any) -> None:
        for other, wire in self.wires.items():
            if other != but:
                wire.send(message)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.failure is not None)
            if not condition():
                raise PeerEnded(f"rank {self.failure.rank} has ended")


def say(text: str) -> None:
    """An error for the user."""
    print(f"error: {text}", file=sys.stderr, flush=True)
