"""Exports read by other runtimes: OpenCV loads every head, and what it cannot load is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from models.export.graph import Nodes
from models.export.onnx import write_onnx
from models.export.readers import read_by_others
from models.layouts import Final, Layout
from tests.models.export.models import predictor_of, small_model, spec_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
OPENCV = f"OpenCV {cv2.__version__}"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *(("cspdet-n", "own"), ("cspdet-n-e2e", "own"), ("darknet", "own")),
        *(("cspdet-n", "yolo"), ("cspdet-n-e2e", "yolo"), ("cspdet-n-e2e", "deepstream")),
    ],
)
def test_every_head_and_layout_loads_in_opencv(name: str, layout: str, tmp_path: Path) -> None:
    model = small_model(name)
    spec = replace(spec_of(model), layout=Layout(layout))
    write_onnx(model, tmp_path / "m.onnx", spec)
    readings = {each.runtime: each for each in read_by_others(predictor_of(model), tmp_path / "m.onnx", spec, SHAPES)}
    assert OPENCV in readings
    for reading in readings.values():
        assert reading.difference is not None, reading
        assert reading.difference.within(1e-4), reading


SHAPES = [(1, 64, 96)]


def test_what_opencv_cannot_load_is_named(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    for layout, reason in (
        (Layout(picture=True), "it takes no input of bytes whose size is open"),
        (Layout(final=Final()), "it does not know NonMaxSuppression in this form"),
    ):
        spec = replace(spec_of(model), layout=layout)
        write_onnx(model, tmp_path / "m.onnx", spec)
        *_, reading = read_by_others(predictor_of(model), tmp_path / "m.onnx", spec, SHAPES)
        assert reading.runtime == OPENCV
        if layout.picture or cv2.__version__.startswith("4."):
            assert (reading.difference, reading.reason) == (None, reason)


def test_a_reader_that_computes_something_else_is_seen(tmp_path: Path) -> None:
    model, path = small_model("cspdet-n"), tmp_path / "m.onnx"
    write_onnx(model, path, spec_of(model))
    file = onnx.load(path)
    for node in file.graph.node:
        for place, name in enumerate(node.output):
            if name == "scores":
                node.output[place] = "scores.right"
    nodes = Nodes(file.graph, "wrong")
    nodes("Mul", "scores.right", nodes.constant(0.9), name="scores")
    onnx.save(file, path)
    readings = read_by_others(predictor_of(model), path, spec_of(model), SHAPES)
    assert readings
    assert all(reading.difference is not None and reading.difference.scores > 0.01 for reading in readings)
