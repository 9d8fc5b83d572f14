"""What memory is free and in use is told by the system."""

from __future__ import annotations

import pytest
import torch

from utils.memory import PeakMemory, free_memory, resident_bytes

CPU = torch.device("cpu")


@pytest.mark.skipif(resident_bytes() is None, reason="this system does not say how much memory a process has")
def test_memory_that_is_given_back_before_the_end_is_seen() -> None:
    before = resident_bytes()
    with PeakMemory(CPU) as peak:
        block = torch.ones(100_000_000, dtype=torch.uint8)
        torch.mm(torch.ones(1500, 1500), torch.ones(1500, 1500))  # longer than a look at the process
        del block
    assert 80e6 < peak.bytes - before < 400e6


def test_there_is_memory_free() -> None:
    free = free_memory(CPU)
    assert free is None or 10**6 < free < 10**14
