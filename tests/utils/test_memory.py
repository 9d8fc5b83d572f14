"""What memory is free and in use is told by the system."""

from __future__ import annotations

import gc
import time

import pytest
import torch

from utils import memory
from utils.memory import PeakMemory, bytes_in_use, free_memory, resident_bytes

CPU = torch.device("cpu")


@pytest.mark.skipif(resident_bytes() is None, reason="this system does not say how much memory a process has")
def test_memory_that_is_given_back_before_the_end_is_seen() -> None:
    gc.collect()
    before = resident_bytes()
    with PeakMemory(CPU) as peak:
        block = torch.ones(400_000_000, dtype=torch.uint8)
        torch.mm(torch.ones(1500, 1500), torch.ones(1500, 1500))  # longer than a look at the process
        del block
    assert 250e6 < peak.bytes - before < 700e6  # what earlier tests left may be given back meanwhile


def test_there_is_memory_free() -> None:
    free = free_memory(CPU)
    assert free is None or 10**6 < free < 10**14


GB = 10**9


def test_what_torch_holds_of_a_gpu_does_not_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GB the driver has 20 left; of the 60 that torch holds, 50 are in use and 10 lie in fragments between."""
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * GB if emptied else 5 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60 * GB)
    assert free_memory(torch.device("cuda", 0)) == 20 * GB


@pytest.mark.parametrize(("machine", "expected"), [(64 * GB, 10 * GB), (3 * GB, 3 * GB)])
def test_the_figures_of_apples_gpus_are_those_of_their_allocator(
    monkeypatch: pytest.MonkeyPatch, machine: int, expected: int
) -> None:
    mps, taken = torch.device("mps"), [6 * GB]
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: taken[0])
    monkeypatch.setattr(memory, "_available", lambda: machine)
    monkeypatch.setattr(memory, "_container_room", lambda: None)
    assert free_memory(mps) == expected
    with PeakMemory(mps) as peak:
        taken[0] = 11 * GB
        time.sleep(0.05)
        taken[0] = 6 * GB
    assert peak.bytes == 11 * GB
    assert bytes_in_use(mps) == 6 * GB
