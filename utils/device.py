"""The device that a command computes on: the --device option."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from utils.config import ConfigError
from utils.structures import may_copy_later

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables of the environment that choose the GPUs which a process sees."""

CHOICES = "cpu, cuda, cuda:N or mps"


def select_device(name: str | None = None, *, local_rank: int = 0) -> torch.device:
    """The device that --device names; without a name the fastest there is: CUDA, else Apple's MPS, else the CPU.

    Args:
        local_rank: the GPU that 'cuda' without a number means (torchrun gives each process of a machine its own). Where
            the environment shows each process one GPU alone, as SLURM can, that is number 0.
    Raises:
        ConfigError: no such device on this machine.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        hint = f" Did you mean 'cuda:{name}'?" if name.isdigit() else ""
        raise ConfigError(f"--device {name}: expected {CHOICES}.{hint}")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: PyTorch finds no Apple GPU here; use --device cpu")
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} finds no CUDA GPU; use --device cpu, or check the driver "
            "and that this PyTorch was built for CUDA"
        )
    count = torch.cuda.device_count()
    shows_one = count == 1 and any(key in os.environ for key in VISIBLE)
    index = int(name[5:]) if ":" in name else 0 if shows_one else local_rank
    if index >= count:
        raise ConfigError(f"--device cuda:{index}: this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def on_device(values: Sequence[float], like: Tensor) -> Tensor:
    """(N,) numbers, on the device and of the type of `like`; unlike with `new_tensor`, the host waits for nothing.

    >>> on_device([1, 2], torch.zeros(3)).tolist()
    [1.0, 2.0]
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=may_copy_later(like.device))


@contextmanager
def without_tf32() -> Iterator[None]:
    """While the block runs, fp32 is fp32: by default PyTorch lets GPUs since Ampere round the inputs of convolutions to
    TF32, which has 10 bits after the point instead of 23.
    """
    kinds: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def uses_tf32(device: torch.device) -> bool:
    """Whether convolutions of fp32 values are computed in TF32 there."""
    if device.type != "cuda" or not torch.backends.cudnn.allow_tf32:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def use_deterministic_kernels() -> None:
    """Allow only kernels that repeat to the bit; others raise an error. Call this before CUDA starts.

    cuBLAS repeats with a workspace of fixed size only, which it reads from the environment when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def describe_device(device: torch.device) -> str:
    """The device with its name, for the output."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
