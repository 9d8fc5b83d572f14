"""How many threads the packages compute with that have a setting for the whole program."""

from __future__ import annotations

import os
import sys

import cv2


def limit_threads(count: int) -> None:
    """Let OpenCV and PyTorch, imported or not, compute with so many CPU threads at most."""
    cv2.setNumThreads(count)
    if "torch" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = str(count)
        return
    import torch

    torch.set_num_threads(count)
