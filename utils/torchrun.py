"""What torchrun tells a process in its environment, known before torch is imported and the process group is up."""

from __future__ import annotations

import os


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    return int(os.environ.get("RANK", 0)) if launched_by_torchrun() else 0


def launched_size() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if launched_by_torchrun() else 1


def local_ranks() -> int:
    """Training processes on this machine, which share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def local_rank() -> int:
    """The process's number on its own machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))
