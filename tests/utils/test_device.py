"""--device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from utils.config import ConfigError
from utils.device import (
    VISIBLE,
    describe_device,
    select_device,
    use_deterministic_kernels,
    uses_tf32,
    without_tf32,
)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu() -> None:
    assert select_device() == select_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")).startswith("cpu (")
    with pytest.raises(ConfigError, match="finds no CUDA GPU; use --device cpu"):
        select_device("cuda:0")
    with pytest.raises(ConfigError, match="no Apple GPU"):
        select_device("mps")


@pytest.mark.usefixtures("two_gpus")
def test_with_two_gpus() -> None:
    assert select_device() == select_device("cuda") == torch.device("cuda", 0)
    assert select_device("cuda", local_rank=1) == select_device(local_rank=1) == torch.device("cuda", 1)
    assert select_device("cuda:1") == torch.device("cuda", 1)
    assert select_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"has 2 GPU\(s\), cuda:0 to cuda:1"):
        select_device("cuda:2")


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_where_each_process_sees_one_gpu_alone_it_is_number_0(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """As SLURM's --gpus-per-task=1 has it: the fourth process of a machine has LOCAL_RANK 3, and cuda:0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"--device cuda:3: this machine has 1 GPU\(s\)"):
        select_device(local_rank=3)
    monkeypatch.setenv(variable, "5")
    assert select_device(local_rank=3) == select_device("cuda", local_rank=3) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="--device cuda:3"):
        select_device("cuda:3", local_rank=3)


@pytest.mark.parametrize(
    ("kind", "capability", "allowed", "expected"),
    [
        ("cuda", (9, 0), True, True),
        ("cuda", (7, 5), True, False),
        ("cuda", (9, 0), False, False),
        ("cpu", (9, 0), True, False),
    ],
)
def test_where_convolutions_are_computed_in_tf32(
    monkeypatch: pytest.MonkeyPatch, kind: str, capability: tuple[int, int], allowed: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    with nullcontext() if allowed else without_tf32():
        assert uses_tf32(torch.device(kind)) is expected


@pytest.fixture
def kernels() -> Iterator[None]:
    """Puts back which kernels torch may use."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark = before


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_deterministic_kernels(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if before is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
    torch.backends.cudnn.benchmark = True
    use_deterministic_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after
    assert torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)


@pytest.mark.parametrize("name", ["", "0", "gpu", "cuda:", "cuda:x", "CUDA", "cpu:0"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected cpu, cuda, cuda:N or mps"):
        select_device(name)
