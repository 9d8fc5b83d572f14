"""benchmarks/step.py on tiny batches."""

from __future__ import annotations

import subprocess
import sys

from utils.config import ROOT


def test_each_model_has_a_line_with_the_time_of_each_part() -> None:
    command = [sys.executable, "benchmarks/step.py", "--cfg", "cspdet-n", "cspdet-n-af", "--rounds", "1"]
    command += ["--img-size", "64", "--batch-size", "2", "--threads", "1", "--device", "cpu", "--set", "amp=off"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert "64 px, batch 2" in title
    parts = ["forward", "loss", "backward", "clip", "optimizer", "average", "all"]
    assert header.split() == ["images/s", "ratio", "TFLOP/s", *parts]
    for name, line in zip(("cspdet-n", "cspdet-n-af"), lines, strict=True):
        title, speed, ratio, _, *times = line.split()
        assert title == name
        assert len(times) == len(parts)
        assert all(float(number) > 0 for number in times)
        assert abs(float(speed) * float(times[-1]) / 2000 - 1) < 0.05
        assert float(ratio) > 0 if name != "cspdet-n" else float(ratio) == 1


def test_a_model_that_is_none_is_one_message() -> None:
    command = [sys.executable, "benchmarks/step.py", "--cfg", "cspdet-nn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cspdet-nn" in done.stderr
    assert "Traceback" not in done.stderr
