"""How many CPU cores there are to compute with, and the packages' settings for the whole program."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let OpenCV and PyTorch, imported or not, compute with so many CPU threads at most."""
    import cv2  # takes longer than --help may

    cv2.setNumThreads(count)
    if "torch" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = str(count)
        return
    import torch

    torch.set_num_threads(count)
