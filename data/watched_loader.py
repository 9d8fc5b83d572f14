"""torch's DataLoader, with loader processes that are watched while they are waited for."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HAS_MASKS = hasattr(signal, "pthread_sigmask")
_HAS_TIMED_WAIT = hasattr(signal, "sigtimedwait")  # not on macOS and Windows


class WatchedLoader(DataLoader):
    """A DataLoader whose processes may stop, hang or die without the training waiting for them.

    torch looks every five seconds whether one has died. One that lives and gives nothing (stopped, or waiting for a
    disk) is killed after `patience`.

    Args:
        patience: seconds to wait for a batch; 0 waits for ever.
        arguments: of DataLoader.
    Raises:
        RuntimeError: while iterating, in torch's words, with the signal that ended a process.
    """

    def __init__(self, *args: Any, patience: float = 0.0, **arguments: Any) -> None:
        super().__init__(*args, **{**arguments, "worker_init_fn": _start_worker})
        self.patience, self.started = patience, False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.num_workers:
            return super().__iter__()
        return _Watched(self)

    def batches(self) -> Any:
        """torch's own iterator, over new processes or those of the last time."""
        if self.started and self.persistent_workers:
            with _given_up_after(self.patience):  # it waits until each process is ready again
                return super().__iter__()
        self.started = True
        with _without_interrupt():
            return super().__iter__()

    def end(self) -> None:
        """End processes that are kept between iterations; they take their temporary files with them.

        It waits for each of them, five seconds at most.
        """
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None


class _Watched:
    """The batches of one iteration."""

    def __init__(self, loader: WatchedLoader) -> None:
        self.patience = loader.patience
        # Those that are kept from the last iteration: one of them may die while they are made ready again.
        self.workers: list[Any] = getattr(loader._iterator, "_workers", [])
        self._batches = self._watched(loader.batches)
        self.workers = self._batches._workers

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> Any:
        with _given_up_after(self.patience):
            return self._watched(self._batches.__next__)

    def _watched(self, work: Any) -> Any:
        try:
            return work()
        except (RuntimeError, OSError, EOFError) as error:  # the last two where the end cut off what it was sending
            if any(said in str(error) for said in ("Caught ", "killed by signal", "timed out after")):
                raise
            killed = self._killed()
            if killed is None:
                raise
            name = signal.strsignal(-killed.exitcode) or -killed.exitcode
        raise RuntimeError(f"DataLoader worker (pid {killed.pid}) is killed by signal: {name}")

    def _killed(self) -> Any:
        """A process that a signal has ended; its end may be seen a little later than what follows from it."""
        until = time.monotonic() + 1.0
        while True:
            ended = [each for each in self.workers if each.exitcode is not None]
            if ended or time.monotonic() > until:
                return next((each for each in ended if each.exitcode < 0), None)
            time.sleep(0.02)


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    """Kill all loader processes when the block takes too long, which ends it.

    Raises:
        RuntimeError: that has happened.
    """
    given_up, ended = threading.Event(), threading.Event()

    def watch() -> None:
        # In short waits, because the clock goes on while this process is stopped with all its children (Ctrl-Z).
        waits = math.ceil(seconds)
        if any(ended.wait(seconds / waits) for _ in range(waits)):
            return
        given_up.set()
        for child in multiprocessing.active_children():
            child.kill()

    if seconds:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except RuntimeError:
        if not given_up.is_set():
            raise
    else:
        return
    finally:
        ended.set()
    raise RuntimeError(f"DataLoader timed out after {seconds:g} seconds")


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: processes that start meanwhile never see the first, as it is their parent's to end
    them, and take the second as `_end_with` does, in threads too that packages start while they are imported (spawn).
    """
    if _HAS_MASKS and multiprocessing.get_start_method() != "fork":
        from multiprocessing import resource_tracker  # not on Windows

        resource_tracker.ensure_running()  # its start would end the block (Python 3.11)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}) if _HAS_MASKS else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Use one thread in a loader process, as there are many of them, and leave signals to the training process.

    A cluster sends SIGTERM to every process of a job, and so does `timeout`; a terminal that is closed sends SIGHUP. A
    loader process that obeyed would end the training before it has saved, so it ends only when its parent asks for it,
    or has ended. Garbage collection leaves alone what it was forked with: to visit an object is to copy its page of
    memory, which was shared until then.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()  # not os.getppid(), which is the fork server's with 'forkserver'
    if trainer is not None:
        _be_killed_with(trainer)
        if _HAS_TIMED_WAIT:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _be_killed_with(trainer: Any) -> None:
    """Let the system kill this process when the trainer has ended, in any way: a stopped process does nothing itself.

    The trainer holds one end of a pipe (multiprocessing's sentinel), and Linux can signal that it has been closed.
    Processes that were forked later hold that end too; they are killed first, as the last one's is the trainer's alone.

    Args:
        trainer: what multiprocessing.parent_process() gives.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    pipe = trainer.sentinel
    with contextlib.suppress(OSError):  # where the system cannot, `_end_with` ends all but stopped processes
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if wait([pipe], 0):
        os._exit(0)  # it had ended before


def _end_with(trainer: Any) -> None:
    """End a loader process, whose other threads block SIGTERM, when its trainer sends that signal or has ended.

    Args:
        trainer: as in `_be_killed_with`.
    """
    starter = os.getppid()  # the trainer or its fork server, which ends with it
    while os.getppid() == starter and trainer.is_alive():
        if not _HAS_TIMED_WAIT:  # macOS and Windows, where SIGTERM ends the process in any case
            trainer.join(1.0)
            continue
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == trainer.pid:
            break
    os._exit(0)
