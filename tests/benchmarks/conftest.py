"""Benchmarks run in the process of the tests, which saves the seconds in which another one imports PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a script of benchmarks/ by its name; its exit status, the lines it prints, and its standard error."""
    threads = torch.get_num_threads(), cv2.getNumThreads()

    def call(name: str, *arguments: str | Path) -> tuple[int, list[str], str]:
        status = importlib.import_module(f"benchmarks.{name}").main([*map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    yield call
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
