"""What a process says when the process group fails; tests/test_ddp_faults.py has real ones."""

from __future__ import annotations

import pytest
from torch.distributed import DistBackendError

from utils import dist
from utils.launch import run_together

DUPLICATE = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, invalid usage, NCCL version 2.27.3
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000
Exception raised from create at /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x80 (0x7f1 in /lib/libc10.so)"""
DRIVER = """NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error, NCCL version 2.27.3
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
Cuda failure 999 'unknown error'"""
WATCHDOG = (
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 600000 ms"
)
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:21"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(dist, "say", texts.append)
    return texts


def ended(error: Exception) -> int:
    def work() -> int:
        raise error

    return run_together(work)


def test_an_error_of_nccl_is_told_whole(said: list[str]) -> None:
    assert ended(DistBackendError(DRIVER)) == 1
    assert said == [
        "NCCL, by which the GPUs exchange their gradients, has failed\n"
        "  NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error, NCCL version 2.27.3\n"
        "  ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "  Last error:\n"
        "  Cuda failure 999 'unknown error'\n"
        "  NCCL_DEBUG=INFO in the environment of every process makes NCCL tell more"
    ]


def test_two_processes_on_one_gpu_are_told_by_their_cause(said: list[str]) -> None:
    assert ended(DistBackendError(DUPLICATE)) == 1
    (text,) = said
    assert text.startswith("two processes compute on one GPU, and each needs its own: give torchrun no larger --nproc")
    assert "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000\n" in text
    assert "frame #0" not in text


def test_no_answer_is_told_with_what_was_waited_for(said: list[str]) -> None:
    assert ended(RuntimeError(GLOO)) == ended(DistBackendError(WATCHDOG)) == 1
    of_gloo, of_nccl = said
    end = "one of them hangs, or the network between them"
    assert of_gloo == f"no answer from the other processes (Connection closed by peer [127.0.0.1]:21): {end}"
    assert of_nccl.startswith(f"no answer from the other processes: {end}\n  Watchdog caught collective operation")
    assert "NCCL_DEBUG=INFO" in of_nccl


def test_where_a_peer_has_ended_it_speaks(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "another_ended", lambda: True)
    assert ended(DistBackendError(DRIVER)) == 1
    assert said == []


def test_an_error_without_a_text_has_its_name(said: list[str]) -> None:
    assert ended(DistBackendError()) == 1
    assert "DistBackendError" in said[0]
