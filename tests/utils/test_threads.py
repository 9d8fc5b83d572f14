"""utils/threads.py: OpenCV's and PyTorch's threads, before and after the import of PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils.config import ROOT


@pytest.mark.parametrize("order", ["import torch; limit_threads(1)", "limit_threads(1); import torch"])
def test_both_compute_with_that_many_threads(order: str) -> None:
    shown = "import cv2; print(torch.get_num_threads(), cv2.getNumThreads())"
    code = f"from utils.threads import limit_threads; {order}; {shown}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "1"], done.stderr
