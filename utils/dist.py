"""The only file that calls torch.distributed: ranks, sums and gathers that also work with one process."""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.peers import CONNECT_SECONDS, PeerEnded, Peers, join, say
from utils.torchrun import launched_by_torchrun, launched_rank, launched_size, local_rank

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)
"""Of collectives, between which nothing long may lie: see `exchange` and `wait_for_first_rank`."""


PIECE = 1 << 24
"""Bytes that `collect` sends at a time."""


class _Now:
    """What holds of this process for a while.

    Args:
        peers, store: to the other processes, inside `launch`.
        groups: process groups that there have been, each with its own part of the store.
        alone_as: the rank that `alone` makes of it.
    """

    peers: Peers | None = None
    store: dist.Store | None = None
    groups = 0
    alone_as: int | None = None


def is_distributed() -> bool:
    """Whether a process group is up."""
    return _Now.alone_as is None and dist.is_available() and dist.is_initialized()


@contextmanager
def alone(as_rank: int | None = None) -> Iterator[None]:
    """While the block runs, this process acts as the only one: what it computes waits for no other.

    Args:
        as_rank: what `rank` says, for draws that depend on it; None keeps this process's own.
    """
    before, _Now.alone_as = _Now.alone_as, rank() if as_rank is None else as_rank
    try:
        yield
    finally:
        _Now.alone_as = before


def rank() -> int:
    """This process's number, 0 without a process group."""
    if _Now.alone_as is not None:
        return _Now.alone_as
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


@contextmanager
def launch() -> Iterator[None]:
    """Connect the processes that torchrun started while the block runs; see `utils.peers`.

    Raises:
        TimeoutError: one of them did not come up.
    """
    if not launched_by_torchrun():
        yield
        return
    agent_has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    number, size, before = launched_rank(), launched_size(), (_Now.peers, _Now.store)
    whole = _open_store(as_server=not agent_has_store and number == 0)
    word = join(whole, number, size)
    store, beats = dist.PrefixStore(word, whole), dist.PrefixStore(word, _open_store(as_server=False))
    peers = Peers(number, size, store, beats, speaks=local_rank() == 0)
    _Now.peers, _Now.store = peers, store
    try:
        yield
    except BaseException as error:
        peers.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        peers.leave()
        _Now.peers, _Now.store = before


def _open_store(*, as_server: bool) -> dist.Store:
    """A connection to the store of the launch, which torchrun has or, without torchrun's, rank 0."""
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=as_server,
        timeout=datetime.timedelta(seconds=CONNECT_SECONDS),
        wait_for_workers=False,
        multi_tenant=True,
    )


def exchange(value: Any) -> list[Any]:
    """A small plain value of every process of the launch, by rank; waits for the slowest, however long that takes.

    Needs no process group. Raises RuntimeError when another process has ended.
    """
    return [value] if _Now.peers is None else _Now.peers.gather(value)


def wait_for_first_rank() -> None:
    """Every other rank waits until rank 0 is here too, however long that takes.

    Raises RuntimeError when another process has ended.
    """
    if _Now.peers is not None:
        _Now.peers.wait_for_first()


def fail(text: str, details: str = "") -> None:
    """Say why this process ends, once for all that end for the same reason, and end the others.

    Args:
        details: lines of this process alone, which follow where it is the one that speaks.
    """
    if _Now.peers is None or _Now.peers.fail(text):
        say((f"[rank {launched_rank()}] {text}" if launched_rank() else text) + details)


def is_of_the_others(error: Exception) -> bool:
    """Whether an error is not this process's own: it was waiting for the others, and in vain."""
    if isinstance(error, (PeerEnded, getattr(dist, "DistError", PeerEnded))):  # some builds of torch have none
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))


def another_ended() -> bool:
    """Whether another process of the launch has ended; asked when a collective has failed."""
    return _Now.peers is not None and _Now.peers.another_ended()


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A process group while the block runs, if torchrun started this process: NCCL on CUDA, gloo elsewhere.

    Whatever may take long belongs before it; it waits for the slowest process.
    """
    if _Now.store is None:
        yield
        return
    exchange(None)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    _Now.groups += 1
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=dist.PrefixStore(f"group{_Now.groups}", _Now.store),
        rank=launched_rank(),
        world_size=launched_size(),
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if on_cuda else None,
    )
    group = dist.group.WORLD
    yield
    # Not after an error: what the others have ended in the middle of would be waited for.
    dist.destroy_process_group()
    # Before PyTorch 2.8 the end of a gloo group may wait for ever for threads that want Python's lock, which its last
    # reference in PyTorch would hold meanwhile; this one goes when they have ended (PyTorch's pull request 154976).
    del group


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
    """One plain value of every rank, in the order of ranks; what JSON keeps, and of any size."""
    if not is_distributed():
        return [value]
    own = _encoded(value)
    sizes = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
    longest = max(int(size) for size in sizes)
    parts = [own.new_zeros(longest) for _ in sizes]
    dist.all_gather(parts, torch.cat((own, own.new_zeros(longest - len(own)))))
    return [_decoded(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def collect(value: Any) -> Iterator[Any]:
    """On rank 0, the value of each other rank, in their order; nothing elsewhere. What JSON keeps, and of any size.

    Rank 0 takes in all texts first, so that nobody waits while it works on one; it holds one value at a time.
    """
    if not is_distributed():
        return iter(())
    own = json.dumps(value).encode() if rank() else b""
    sizes = gather(len(own))
    texts: list[bytes] = []
    for other in range(1, world_size()):
        if rank() == 0:
            texts.append(b"".join(_received(size, other) for size in _pieces(sizes[other])))
        elif rank() == other:
            for start, size in zip(itertools.count(0, PIECE), _pieces(len(own)), strict=False):
                dist.send(_bytes_tensor(own[start : start + size]), 0)
    return map(json.loads, texts)


def _pieces(size: int) -> list[int]:
    """So many bytes in pieces of at most `PIECE`: NCCL takes them through the memory of a GPU, which may be full."""
    return [min(PIECE, size - start) for start in range(0, size, PIECE)]


def _received(size: int, source: int) -> bytes:
    piece = torch.empty(size, dtype=torch.uint8, device=_bytes_device())
    dist.recv(piece, source)
    return piece.cpu().numpy().tobytes()


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; what JSON keeps. The others wait for it, however long that takes."""
    if not is_distributed():
        return value
    wait_for_first_rank()
    own = _encoded(value if rank() == 0 else None)
    size = torch.tensor([len(own)], device=own.device)
    dist.broadcast(size, src=0)
    text = own if rank() == 0 else own.new_zeros(int(size))
    dist.broadcast(text, src=0)
    return _decoded(text)


def barrier() -> None:
    """Wait for every rank."""
    if is_distributed():
        dist.barrier()


def copy_from_first_rank_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def _encoded(value: Any) -> Tensor:
    """A plain value as bytes, where the process group wants them. JSON, because pickle could run code."""
    return _bytes_tensor(json.dumps(value).encode())


def _bytes_tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(_bytes_device())


def _bytes_device() -> torch.device | None:
    """Where the process group wants what it passes on."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None


def _decoded(text: Tensor) -> Any:
    return json.loads(text.cpu().numpy().tobytes())
