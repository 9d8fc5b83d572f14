"""benchmarks/exports.py on a tiny file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.export.onnx import write_onnx
from tests.models.export.models import small_model, spec_of
from utils.config import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/exports.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_each_file_has_a_row(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, path = small_model("cspdet-n"), tmp_path / "m.onnx"
    write_onnx(model, path, spec_of(model))
    done = run(str(path), str(path), "--rounds", "1", "--images", "1")
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 2
    assert all(float(row.split(" ms ")[0]) > 0 and "64x96  ONNX Runtime" in row for row in rows)


def test_a_missing_file_is_one_message() -> None:
    done = run("nosuch.onnx")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nosuch.onnx: no such file" in done.stderr
