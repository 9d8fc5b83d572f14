"""Ctrl-C and SIGTERM end a run between two steps, with its state saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from utils.dist import is_distributed, sum_over_ranks


class Stop:
    """Whether somebody asked the run to end; a second Ctrl-C ends it at once.

    Signals less than two seconds after the first are the same request: a cluster tells every process of a job, and
    torchrun then tells its own once more.

    `at_once`: the first signal ends the run at once, because there is nothing to save.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0
        self.at_once = False

    def receive(self, number: int, _: FrameType | None) -> None:
        """Signal handler."""
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
            if self.at_once:
                raise KeyboardInterrupt
        elif time.monotonic() - self.since > 2:
            raise KeyboardInterrupt

    def requested(self, device: torch.device) -> bool:
        """Whether to stop now; all ranks get the same answer at the same step."""
        asked = self.signal is not None
        if not is_distributed():
            return asked
        return bool(sum_over_ranks(torch.tensor(float(asked), device=device)) > 0)


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM while the block runs (in the main thread; elsewhere signals are left alone).

    Inside another such block it is that block's Stop, so that a request ends both.
    """
    outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(outer, Stop):
        yield outer
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
