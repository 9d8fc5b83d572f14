"""The only file that calls torch.distributed: ranks, sums and gathers that also work with one process."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def is_distributed() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_rank() -> int:
    """The rank that torchrun gave this process, known before the process group is up; 0 without torchrun."""
    return int(os.environ.get("RANK", 0)) if launched_by_torchrun() else 0


def local_rank() -> int:
    """The process's number on its own machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A process group while the block runs, if torchrun started this process: NCCL on CUDA, gloo elsewhere."""
    if not launched_by_torchrun():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model in DistributedDataParallel, or itself without a process group."""
    if not is_distributed():
        return model
    # Buffers (BN statistics, anchors) are those of rank 0 at every step, as in the checkpoint.
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks; no gradient."""
    value = value.detach().clone()
    if is_distributed():
        dist.all_reduce(value)
    return value


def gather(value: Any) -> list[Any]:
    """One plain value of every rank, in the order of ranks."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def copy_from_first_rank_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait for every rank."""
    if is_distributed():
        dist.barrier()
