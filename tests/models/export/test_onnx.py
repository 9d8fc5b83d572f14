"""ONNX files against PyTorch: networks of every kind, fixed and open sizes, weights in fp16."""

from __future__ import annotations

import configparser
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from models.build import build_model
from models.config import load_model_config
from models.detector import Detector
from models.export.compare import BestClass, compare
from models.export.onnx import OPSET, write_onnx
from models.layouts import Layout
from models.predictor import open_predictor
from tests.models.export.models import NAMES, SMALL, predictor_of, small_model, spec_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def sizes_of(values: list) -> list[list[int | str]]:
    return [[side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] for value in values]


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a `small_model` for open sizes, written once."""

    @functools.cache
    def written(name: str) -> Path:
        path, model = tmp_path_factory.mktemp("onnx") / "m.onnx", small_model(name)
        write_onnx(model, path, spec_of(model, dynamic=True))
        return path

    return written


@pytest.mark.parametrize("name", [*SMALL, "darknet", "region"])
def test_open_sizes_give_what_pytorch_gives(name: str, file_of: Callable[[str], Path]) -> None:
    model = small_model(name)
    spec = spec_of(model, dynamic=True)
    predictor = open_predictor(file_of(name))
    assert predictor.info == spec.info
    stride = model.stride
    shapes = [(1, 64, 96), (3, 64, 96), (2, 2 * stride, stride), (1, 160, 128)]
    difference = compare(predictor_of(model), predictor, shapes)
    assert difference.within(2e-5), difference
    graph = onnx.load(file_of(name)).graph
    assert sizes_of(graph.input) == [["batch", 3, "height", "width"]]
    assert sizes_of(graph.output) == [["batch", "predictions", 4], ["batch", "predictions", 3]]


@pytest.mark.parametrize("name", ["cspdet-n", "darknet"])
def test_a_fixed_size_leaves_nothing_to_be_worked_out(name: str, tmp_path: Path) -> None:
    model = small_model(name)
    write_onnx(model, tmp_path / "m.onnx", spec_of(model, batch_size=2))
    predictor = open_predictor(tmp_path / "m.onnx")
    assert predictor.info.fixed_size
    assert compare(predictor_of(model), predictor, [(2, 64, 96), (3, 64, 96)]).within(2e-5)
    graph = onnx.load(tmp_path / "m.onnx").graph
    count = sum(size[0] * size[1] * n for size, n in zip(grids(model), model.head.anchor_counts, strict=True))
    assert sizes_of(graph.input) == [[2, 3, 64, 96]]
    assert sizes_of(graph.output) == [[2, count, 4], [2, count, 3]]
    kinds = {node.op_type for node in graph.node}
    assert "BatchNormalization" not in kinds
    assert not kinds & {"Range", "NonZero", "If", "Loop"}


def test_constants_are_folded(tmp_path: Path) -> None:
    """cspdet-n has 81 convolutions; PyTorch's exporter writes 638 nodes for it."""
    model = build_model(load_model_config("cspdet-n"), 80).eval()
    spec = spec_of(model)
    write_onnx(model, tmp_path / "m.onnx", replace(spec, info=replace(spec.info, names=tuple(map(str, range(80))))))
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert len(nodes) <= 351
    assert not {node.op_type for node in nodes} & {"Constant", "Identity", "Shape", "Expand"}
    assert {node.domain for node in nodes} == {""}


@pytest.mark.parametrize("kind", ["yolo", "deepstream"])
@pytest.mark.parametrize("name", ["cspdet-n", "cspdet-n-e2e"])
def test_other_layouts_hold_the_same(kind: str, name: str, tmp_path: Path) -> None:
    model = small_model(name)
    spec = replace(spec_of(model, batch_size=2), layout=Layout(kind))
    write_onnx(model, tmp_path / "m.onnx", spec)
    predictor, original = open_predictor(tmp_path / "m.onnx"), predictor_of(model)
    difference = compare(BestClass(original) if kind == "deepstream" else original, predictor, [(2, 64, 96)])
    assert difference.within(2e-5), difference
    (output,) = onnx.load(tmp_path / "m.onnx").graph.output
    count = original.predict(np.zeros((1, 3, 64, 96), np.float32))[0].shape[1]
    wanted = ("output0", [2, 7, count]) if kind == "yolo" else ("output", [2, count, 6])
    assert (output.name, sizes_of([output])[0]) == wanted


def test_deepstream_has_its_text_files(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    write_onnx(model, tmp_path / "m.onnx", replace(spec_of(model, batch_size=2), layout=Layout("deepstream")))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config_infer_primary_m.txt", "labels.txt", "m.onnx",
    ]  # fmt: skip
    assert (tmp_path / "labels.txt").read_text("utf-8").splitlines() == list(NAMES)
    config = configparser.ConfigParser()
    config.read(tmp_path / "config_infer_primary_m.txt")
    settings = config["property"]
    assert (settings["onnx-file"], settings["labelfile-path"]) == ("m.onnx", "labels.txt")
    assert (settings["batch-size"], settings["num-detected-classes"]) == ("2", "3")
    assert settings["maintain-aspect-ratio"] == "0", "the model stretches images"
    assert float(settings["net-scale-factor"]) == pytest.approx(1 / 255)
    assert dict(config["class-attrs-all"]) == {
        "pre-cluster-threshold": "0.25", "nms-iou-threshold": "0.45", "topk": "300",
    }  # fmt: skip


def grids(model: Detector) -> list[tuple[int, int]]:
    return [(64 // stride, 96 // stride) for stride in model.head.strides]


def test_metadata_names_and_types(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    write_onnx(model, tmp_path / "m.onnx", spec_of(model))
    file = onnx.load(tmp_path / "m.onnx")
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", OPSET)]
    assert {entry.key: entry.value for entry in file.metadata_props} == spec_of(model).metadata
    assert [value.name for value in file.graph.input] == ["images"]
    assert [value.name for value in file.graph.output] == ["boxes", "scores"]
    types = {value.type.tensor_type.elem_type for value in (*file.graph.input, *file.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}
    assert not file.functions


def test_a_file_holds_no_weights_of_branches_that_only_training_needs(file_of: Callable[[str], Path]) -> None:
    """Its convolutions are those of the model without these branches."""
    model = small_model("cspdet-n-e2e")
    graph = onnx.load(file_of("cspdet-n-e2e")).graph
    kernels = sorted(math.prod(weight.dims) for weight in graph.initializer if len(weight.dims) == 4)
    model.head.keep_one_to_one_()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == sorted(convolution.weight.numel() for convolution in convolutions)


def test_weights_in_fp16_are_those_of_the_model_rounded(file_of: Callable[[str], Path], tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    write_onnx(model, tmp_path / "half.onnx", spec_of(model, dynamic=True, half=True))
    files = file_of("cspdet-n"), tmp_path / "half.onnx"
    full, half = ({weight.name: weight for weight in onnx.load(file).graph.initializer} for file in files)
    rounded = [name for name in full if f"{name}.fp16" in half]
    assert len(rounded) == sum(1 for m in model.modules() if type(m).__name__ == "Conv2d")
    for name in rounded:
        wanted = onnx.numpy_helper.to_array(full[name]).astype(np.float16)
        assert np.array_equal(onnx.numpy_helper.to_array(half[f"{name}.fp16"]), wanted)
    predictor = open_predictor(tmp_path / "half.onnx")
    assert predictor.precision == "fp32 (fp16 weights)"
    difference = compare(predictor_of(model), predictor, [(2, 64, 96), (1, 32, 32)])
    assert 1e-6 < difference.boxes < 5e-3, difference
    assert 1e-6 < difference.scores < 5e-3, difference
