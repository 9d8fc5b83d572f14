"""Want of memory is told from other errors; tests/test_faults.py has the commands themselves."""

from __future__ import annotations

import pytest
import torch

from utils.faults import explain, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_only_memory_counts(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_failure_of_the_cpus_allocator_counts() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "of the GPU"),
        ("FIND was unable to find an engine to execute this computation", "of the GPU"),
        ("MPS backend out of memory (MPS allocated: 8 GB)", "of the GPU"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", "of the machine"),
    ],
)
def test_whose_memory_it_was_is_said(text: str, where: str) -> None:
    assert str(explain(RuntimeError(text))).startswith(f"out of memory {where} (")
