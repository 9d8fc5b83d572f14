"""int8: what is computed in 8 bits, and that the file is read like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.export.compare import compare, made_up_images
from models.export.onnx import write_onnx
from models.export.openvino import write_openvino
from models.layouts import Final, Layout
from models.predictor import open_predictor
from models.runtimes import import_openvino
from tests.models.export.models import predictor_of, small_model, spec_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

IMAGES = made_up_images((5, 64, 96), seed=0).mul(255).byte().numpy()


def test_backbone_and_neck_are_in_int8_and_the_head_is_not(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    spec = replace(spec_of(model, batch_size=2), calibration=IMAGES)
    write_onnx(model, tmp_path / "m.onnx", spec)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    graph = onnx.load(tmp_path / "m.onnx").graph
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    restored = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    heads = 0
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if node.name.startswith("/model/head"):
            assert weights[node.input[1]].dtype == np.float32
            heads += 1
        else:
            values, scale, _ = (weights[name] for name in restored[node.input[1]])
            assert values.dtype == np.int8
            assert scale.shape == (len(values),), "a scale for each output channel"
    assert heads == len(model.head.convs)
    predictor = open_predictor(tmp_path / "m.onnx")
    assert predictor.precision == "int8"
    assert compare(predictor_of(model), predictor, [(2, 64, 96)]).scores < 0.5


def test_detections_end_an_int8_file_too(tmp_path: Path) -> None:
    model = small_model("cspdet-n-e2e")
    spec = replace(spec_of(model), calibration=IMAGES[:2], layout=Layout(final=Final(max_det=7), picture=True))
    write_onnx(model, tmp_path / "m.onnx", spec)
    boxes, scores = open_predictor(tmp_path / "m.onnx").predict(IMAGES[:3, :, :50])
    assert (boxes.shape, scores.shape) == ((3, 7, 4), (3, 7, 3))
    assert (boxes >= 0).all() and (boxes <= [96, 50, 96, 50]).all()


def test_openvino_reads_it(tmp_path: Path) -> None:
    try:
        import_openvino()
    except ImportError:
        pytest.skip("openvino is not installed")
    model = small_model("cspdet-n")
    write_openvino(model, tmp_path / "m.xml", replace(spec_of(model), calibration=IMAGES[:3]))
    write_onnx(model, tmp_path / "m.onnx", replace(spec_of(model), calibration=IMAGES[:3]), kinds=("Conv",))
    predictor = open_predictor(tmp_path / "m.xml")
    assert predictor.precision == "int8"
    assert compare(open_predictor(tmp_path / "m.onnx"), predictor, [(1, 64, 96)]).scores < 0.1
    assert 'element_type="i8"' in (tmp_path / "m.xml").read_text(), "weights are stored in 8 bits"
