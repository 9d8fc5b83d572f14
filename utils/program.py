"""How a program starts and ends: Ctrl-C without a traceback at any time, and no process that is left behind.

This module imports little, because it is imported before everything else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

LEAVE_SECONDS = 20.0
"""How long a program that has said its last word may take to end; then it is ended."""

STOPPED = 130
"""The exit status after Ctrl-C."""


def quiet_start() -> None:
    """Let Ctrl-C end the program at once while its packages are imported; `run_program` takes it over.

    Where Ctrl-C is ignored (nohup, or in the background of a shell script) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status; with STOPPED after Ctrl-C, which it may handle itself."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        from utils.log import say  # loaded by now: `main` is a command

        say("stopped", error=True)
        status = STOPPED
    finally:
        quiet_start()
        end_children()
    end_soon(status)
    sys.exit(status)


def end_children(*, seconds: float = 2.0) -> None:
    """Kill the loader processes of this process and wait for their end, no longer than `seconds` each.

    Nothing else ends a process that is stopped or hangs, and Python would wait for it at its own end.
    """
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
