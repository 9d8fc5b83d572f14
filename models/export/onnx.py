"""ONNX: one file for ONNX Runtime, OpenVINO, TensorRT and others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.detector import Detector
from models.export.deepstream import write_deepstream
from models.export.detections import add_suppression, add_temperature, name_detections
from models.export.graph import fold_constants, rename_value, set_input, set_outputs
from models.export.network import ExportNetwork, ExportSpec
from models.export.picture import add_letterbox, cut_to_picture, to_picture
from models.export.quantize import KINDS, quantize
from models.layouts import INPUT, PICTURE

if TYPE_CHECKING:
    import onnx  # else imported where it is needed

OPSET = 17
"""Known to every runtime since 2022; nothing newer is needed."""


def write_onnx(model: Detector, path: Path, spec: ExportSpec, kinds: Sequence[str] = KINDS) -> None:
    """Write `path` with the model's metadata, checked by ONNX itself; docs/deploy.md has what it takes and gives.

    Args:
        kinds: operators that int8 computes, where the specification asks for it.
    Raises:
        ImportError: the package onnx is missing.
    """
    import onnx

    trace(model, path, spec)
    graph = fold_constants(onnx.load(str(path)), path.with_suffix(".folded.onnx"))
    if spec.calibration is not None:
        graph = quantize(graph, spec.calibration, path.with_suffix(".int8.onnx"), kinds)
    if spec.half:
        _halve_weights_(graph)
    _add_ends_(graph.graph, spec)
    onnx.helper.set_model_props(graph, spec.metadata)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))
    if spec.layout.kind == "deepstream":
        write_deepstream(path, spec)


def trace(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path`, the network with its decode as PyTorch's exporter has it."""
    import onnx

    batch = not spec.layout.picture or spec.batch_size > 1  # a picture comes alone
    outputs = spec.layout.outputs(spec.info.task) if not spec.layout.final else ("boxes", "scores")
    axes = {INPUT: {2: "height", 3: "width"}} | {name: {} for name in outputs}
    many = 2 if spec.layout.kind == "yolo" else 1
    for name, sides in axes.items():
        if batch:
            sides[0] = "batch"
        if name != INPUT and spec.info.task == "detect":
            sides[many] = "predictions"
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of every size that Python reads; the comparison at other sizes shows whether it matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ExportNetwork(model, spec.layout.kind),
            (spec.example(),),
            str(path),
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes=axes if spec.dynamic else None,
            opset_version=OPSET,
            # The newer exporter takes twenty times as long for the same graph, and needs another package.
            dynamo=False,
        )
    graph = onnx.load(str(path))
    classes = len(spec.info.names)
    widths = {"boxes": 4, "scores": classes, "probabilities": classes, "output0": 4 + classes, "output": 6}
    for output in graph.graph.output:
        # The exporter loses it with dynamic sizes.
        place = 1 if spec.layout.kind == "yolo" else -1
        output.type.tensor_type.shape.dim[place].dim_value = widths[output.name]
    onnx.save(graph, str(path))


def _add_ends_(graph: onnx.GraphProto, spec: ExportSpec) -> None:
    """Let the graph begin with a picture and end in detections, as the layout says."""
    layout, batch = spec.layout, "batch" if spec.dynamic and not spec.layout.picture else spec.batch_size
    placed = None
    if layout.picture:
        placed = add_letterbox(graph, spec.info, rectangle=spec.dynamic)
        set_input(graph, PICTURE, "UINT8", (1, "height", "width", 3))
    if layout.final:
        rename_value(graph, "boxes", "candidates.boxes")
        rename_value(graph, "scores", "candidates.scores")
        rows = add_suppression(graph, "candidates.boxes", "candidates.scores", layout.final, spec.info)
        most = layout.final.max_det
        if placed:
            rows = cut_to_picture(graph, rows, placed, most)
        rows = add_temperature(graph, rows, spec.info.temperature)
        name_detections(graph, rows)
        set_outputs(
            graph,
            {
                "boxes": ("FLOAT", (batch, most, 4)),
                "scores": ("FLOAT", (batch, most)),
                "classes": ("INT64", (batch, most)),
                "count": ("INT64", (batch,)),
            },
        )
    elif placed:
        rename_value(graph, "boxes", "candidates.boxes")
        to_picture(graph, "candidates.boxes", placed, name="boxes")


def _halve_weights_(model: onnx.ModelProto) -> None:
    """Store the convolutions' weights in fp16, each with a Cast to fp32 that runtimes execute once, when loading."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) == 4:
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
