"""How a command that torchrun may have started ends: with one message, and in all its processes."""

from __future__ import annotations

import re
from collections.abc import Callable

from utils import dist
from utils.faults import explain


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
    try:
        return work()
    except Exception as error:
        if dist.is_of_the_others(error):
            return _end_with_the_others(error)
        text = explain(error)
        if text is None:
            raise
        dist.fail(text)
        return 2
    except KeyboardInterrupt:
        dist.fail("stopped at once; the last checkpoint is whole")
        return 130


def _end_with_the_others(error: Exception) -> int:
    if not dist.another_ended():
        reason = re.sub(r"^\[[^]]*\] *", "", str(error).strip().splitlines()[0])  # gloo's place in its source
        dist.fail(f"no answer from the other processes ({reason}): one of them hangs, or the network between them")
    return 1
