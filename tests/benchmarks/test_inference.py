"""benchmarks/inference.py and benchmarks/video.py on small inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.conftest import Run
from tests.test_detect import save_video
from tests.test_val import write_checkpoint


def test_each_runtime_has_its_time_and_its_speed_beside_opencv(run: Run) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    status, (title, *lines), _ = run("inference", "--img-size", "64", "--rounds", "1", "--threads", "1")
    assert status == 0
    assert "cspdet-n, 64 px, 1 threads" in title
    rows = {line.rsplit(maxsplit=2)[0]: list(map(float, line.split()[-2:])) for line in lines}
    assert next(iter(rows)).startswith("OpenCV")
    kinds = ["PyTorch, fused by hand", "ONNX Runtime, bare", "OpenVINO, bare"]
    assert list(rows)[1:] == [*kinds, "PyTorch, ours", "ONNX Runtime, ours", "OpenVINO, ours"]
    (first, one), *others = rows.values()
    assert one == 1
    for milliseconds, speed in others:
        assert speed == pytest.approx(first / milliseconds, rel=0.05, abs=0.01)


def test_each_stage_of_a_video_has_its_time(run: Run, tmp_path: Path) -> None:
    weights, video = write_checkpoint(tmp_path / "best.pt"), save_video(tmp_path / "clip.mp4", frames=9)
    status, (_, header, line, encoder), _ = run("video", "--weights", weights, "--source", video, "--frames", "5")
    assert status == 0
    assert header.split() == ["read", "prepare", "inference", "postprocess", "draw", "encode", "all"]
    name, *times = line.split()
    assert name == "best.pt"
    assert sum(map(float, times[:-1])) == pytest.approx(float(times[-1]), abs=0.1)
    assert encoder.startswith("Encoder: lib")
