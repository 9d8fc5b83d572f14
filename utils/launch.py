"""How a command that torchrun may have started ends: with one message, and in all its processes."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from utils import dist
from utils.dist import is_distributed, sum_over_ranks
from utils.faults import explain
from utils.program import STOPPED, end_children, end_soon, stop_signals


def run_together(work: Callable[[], int]) -> int:
    """The exit status of `work`, done in every process of a launch, or in the only one.

    What the user can do something about ends in one message and status 2, however many processes find it; an end that
    another process caused in status 1, without a word; Ctrl-C in 130. Mistakes of the program are raised, and end the
    other processes too.
    """
    try:
        with dist.launch():
            return _attempt(work)
    except TimeoutError as error:  # a process did not come up
        dist.fail(str(error))
        return 1


def _attempt(work: Callable[[], int]) -> int:
    leaving = None
    try:
        return work()
    except Exception as error:
        status = _told(error)
        end_children()  # before the work is taken apart, which would wait for them
        leaving = end_soon(status)
    except KeyboardInterrupt as stopped:
        dist.fail(str(stopped) or "stopped at once")
        end_children()
        return STOPPED
    finally:
        if leaving is not None:
            leaving.cancel()
    return status


def _told(error: Exception) -> int:
    """Say what has ended the work; returns the exit status. Mistakes of the program are raised."""
    if dist.is_of_the_others(error):
        if not dist.another_ended():
            dist.fail(*_of_the_group(str(error) or type(error).__name__))
        return 1
    text = explain(error)
    if text is None:
        raise error
    dist.fail(text)
    return 2


_NO_ANSWER = re.compile(
    r"time[d ]*-?out|(closed|reset|refused) by peer|connection (closed|reset|refused)", re.IGNORECASE
)


def _of_the_group(text: str) -> tuple[str, str]:
    """The message and its details for an error of the process group that no process's end explains.

    The message is the same on all ranks, which have it at the same time; what gloo or NCCL says differs.

    Args:
        text: of the error.
    """
    whole = text.strip().partition("\nException raised from ")[0]  # what follows is a list of C++ functions
    first, *more = whole.splitlines() or [""]
    first = re.sub(r"^\[[^]]*\] *", "", first)  # gloo's place in its source
    if "Duplicate GPU" in whole:
        summary = (
            "two processes compute on one GPU, and each needs its own: give torchrun no larger --nproc_per_node than "
            "the machine has GPUs (CUDA_VISIBLE_DEVICES may hide some)"
        )
    elif _NO_ANSWER.search(whole) or "NCCL" not in whole:
        reason = "" if "NCCL" in whole else f" ({first})"
        summary = f"no answer from the other processes{reason}: one of them hangs, or the network between them"
        first = first if "NCCL" in whole else ""
    else:
        summary = "NCCL, by which the GPUs exchange their gradients, has failed"
    details = [line.rstrip() for line in (first, *more) if line.strip()]
    if "NCCL" in whole:
        details.append("NCCL_DEBUG=INFO in the environment of every process makes NCCL tell more")
    return summary, "".join(f"\n  {line}" for line in details)


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
        return bool(sum_over_ranks(torch.full((), float(asked), device=device)) > 0)


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Catch Ctrl-C and `stop_signals` while the block runs (in the main thread; elsewhere signals are left alone).

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
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGINT, *stop_signals())}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
