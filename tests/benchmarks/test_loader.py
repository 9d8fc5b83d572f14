"""The benchmark of the loader runs, and its stages add up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.config import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "loader.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_stage_is_timed_from_disk_and_from_memory(tiny_coco: Path) -> None:
    ended = run("--data", str(tiny_coco), "--img-size", "96", "--batch-size", "4", "--batches", "6")
    assert ended.returncode == 0, ended.stderr
    table = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()}
    assert table["from"][2:] == ["decode", "resize", "warp", "colour", "flip", "boxes", "collate", "rest"]
    for place in ("disk", "memory"):
        rate, milliseconds, *stages = map(float, table[place])
        assert rate == pytest.approx(1000 / milliseconds, rel=0.01)
        assert sum(stages) == pytest.approx(milliseconds, rel=0.5), "a mean and a median"
        assert place == "disk" or stages[0] == 0, "nothing is decoded that is in memory"
        assert all(stage > 0 for stage in stages[2:])
    assert "From memory" in ended.stdout


def test_a_wrong_data_set_is_told_in_a_line() -> None:
    ended = run("--data", "nowhere.yaml")
    assert ended.returncode == 2
    assert "nowhere.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr
