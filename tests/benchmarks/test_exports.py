"""benchmarks/exports.py on a tiny file."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.export.onnx import write_onnx
from tests.benchmarks.conftest import Run
from tests.models.export.models import small_model, spec_of


def test_each_file_has_a_row(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, path = small_model("cspdet-n"), tmp_path / "m.onnx"
    write_onnx(model, path, spec_of(model))
    status, rows, error = run("exports", path, path, "--rounds", "1", "--images", "1")
    assert status == 0, error
    assert len(rows) == 2
    assert all(float(row.split(" ms ")[0]) > 0 and "64x96  ONNX Runtime" in row for row in rows)


def test_a_missing_file_is_one_message(run: Run) -> None:
    status, _, error = run("exports", "nosuch.onnx")
    assert (status, error.count("\n")) == (2, 1)
    assert "nosuch.onnx: no such file" in error
