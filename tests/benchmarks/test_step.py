"""benchmarks/step.py on tiny batches."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.conftest import Run


def test_each_model_has_a_line_with_the_time_of_each_part(run: Run) -> None:
    small = ["--rounds", "1", "--img-size", "64", "--batch-size", "2", "--threads", "1", "--set", "amp=off"]
    status, (title, header, *lines), _ = run("step", "--cfg", "cspdet-n", "cspdet-n-af", "--device", "cpu", *small)
    assert status == 0
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


def test_a_model_that_is_none_is_one_message(run: Run) -> None:
    status, _, error = run("step", "--cfg", "cspdet-nn")
    assert status == 2
    assert "cspdet-nn" in error
    assert "Traceback" not in error


def test_images_come_from_a_set_by_its_loader(run: Run, tiny_coco: Path) -> None:
    small = ["--rounds", "1", "--img-size", "64", "--batch-size", "2", "--threads", "1", "--set", "amp=off"]
    status, (*_, header, line), _ = run("step", "--cfg", "cspdet-n", "--device", "cpu", "--data", tiny_coco, *small)
    assert status == 0
    assert header.split()[3] == "data"
    assert len(line.split()) == 1 + len(header.split())
    assert float(line.split()[1]) > 0
