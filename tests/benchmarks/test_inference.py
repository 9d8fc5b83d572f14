"""benchmarks/inference.py and benchmarks/video.py on small inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_detect import save_video
from tests.test_val import write_checkpoint
from utils.config import ROOT


def run(*arguments: str | Path) -> list[str]:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_runtime_has_its_time_and_its_speed_beside_opencv() -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    title, *lines = run("benchmarks/inference.py", "--img-size", "64", "--rounds", "1", "--threads", "1")
    assert "cspdet-n, 64 px, 1 threads" in title
    rows = {line.rsplit(maxsplit=2)[0]: list(map(float, line.split()[-2:])) for line in lines}
    assert next(iter(rows)).startswith("OpenCV")
    kinds = ["PyTorch, fused by hand", "ONNX Runtime, bare", "OpenVINO, bare"]
    assert list(rows)[1:] == [*kinds, "PyTorch, ours", "ONNX Runtime, ours", "OpenVINO, ours"]
    (first, one), *others = rows.values()
    assert one == 1
    for milliseconds, speed in others:
        assert speed == pytest.approx(first / milliseconds, rel=0.05, abs=0.01)


def test_each_stage_of_a_video_has_its_time(tmp_path: Path) -> None:
    weights, video = write_checkpoint(tmp_path / "best.pt"), save_video(tmp_path / "clip.mp4", frames=9)
    _, header, line, encoder = run("benchmarks/video.py", "--weights", weights, "--source", video, "--frames", "5")
    assert header.split() == ["read", "prepare", "inference", "postprocess", "draw", "encode", "all"]
    name, *times = line.split()
    assert name == "best.pt"
    assert sum(map(float, times[:-1])) == pytest.approx(float(times[-1]), abs=0.1)
    assert encoder.startswith("Encoder: lib")
