"""How a program starts and ends: Ctrl-C without a traceback at any time, and no process that is left behind.

This module imports little, because it is imported before everything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

LEAVE_SECONDS = 20.0
"""How long a program that has said its last word may take to end; then it is ended."""

STOPPED = 130
"""The exit status after Ctrl-C."""

_QUERY, _RUNNING = 0x1000, 259
"""Of Windows: PROCESS_QUERY_LIMITED_INFORMATION and STILL_ACTIVE."""

_MADE_OF_IT = (ImportError, RecursionError, SystemError)
"""What packages make of Ctrl-C that hits them in their C code, above all while they are imported."""

_pressed = threading.Event()
"""Ctrl-C."""


def quiet_start() -> None:
    """Let Ctrl-C end the program at once while its packages are imported; `run_program` takes it over.

    Where Ctrl-C is ignored (nohup, or in the background of a shell script) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Inside `run_program`, let Ctrl-C end the program at once while the block imports packages.

    C++ code that is just being loaded aborts where Python raises KeyboardInterrupt, with a page of addresses.
    """
    in_main = threading.current_thread() is threading.main_thread()  # Python sets signals nowhere else
    taken = in_main and signal.getsignal(signal.SIGINT) is _interrupt
    if taken:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if taken:
            signal.signal(signal.SIGINT, _interrupt)


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status; with STOPPED after Ctrl-C, which it may handle itself.

    What the system has against it (OSError) is told in one line, with status 2.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        status = main()
    except (KeyboardInterrupt, *_MADE_OF_IT) as error:
        if not (isinstance(error, KeyboardInterrupt) or _pressed.is_set()):
            raise
        from utils.log import say  # loaded by now: `main` is a command

        say("stopped", error=True)
        status = STOPPED
    except OSError as error:  # that no command has told of: standard output is on a full disk
        from utils.log import say_error

        say_error(error)
        status = 2
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_children()
    end_soon(status)
    sys.exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Signal handler."""
    _pressed.set()
    signal.default_int_handler(number, frame)


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP, which says that the terminal is gone, unless it is ignored (nohup)."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        return [signal.SIGTERM, signal.SIGHUP]
    return [signal.SIGTERM]


def is_alive(process: int) -> bool:
    """Whether a process of this number runs; signal 0, which asks that elsewhere, ends a process on Windows."""
    if os.name != "nt":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    import _winapi  # by which Python's own subprocess asks

    system: Any = _winapi
    try:
        handle = system.OpenProcess(_QUERY, False, process)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        return system.GetExitCodeProcess(handle) == _RUNNING
    finally:
        system.CloseHandle(handle)


def end_children(*, seconds: float = 2.0) -> None:
    """Kill the loader processes of this process and wait for their end, no longer than `seconds` each.

    Nothing else ends a process that is stopped or hangs, and Python would wait for it at its own end.
    """
    import multiprocessing  # takes as long to import as all the rest

    children = multiprocessing.active_children()
    if not children:
        return
    handles = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if handles else None  # torch's would raise an error
    for child in children:
        child.kill()
    for child in children:
        child.join(seconds)
    if handles:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def end_soon(status: int) -> threading.Timer:
    """End this process in LEAVE_SECONDS with an exit status, whatever hangs then, unless the timer is cancelled."""
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (status,))
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run like Ctrl-C, so that a video stopped from outside can be played too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python sets signals nowhere else
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
