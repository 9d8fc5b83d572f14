"""ONNX: one file for ONNX Runtime, OpenVINO, TensorRT and others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.detector import Detector
from models.export.network import INPUT, ExportNetwork, ExportSpec
from models.info import OUTPUTS

if TYPE_CHECKING:
    import onnx  # else imported where it is needed

OPSET = 17
"""Known to every runtime since 2022; nothing newer is needed."""


def write_onnx(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path` with the model's metadata, checked by ONNX itself.

    Input 'images' (B, 3, H, W) float32; outputs 'boxes' (B, N, 4) and 'scores' (B, N, C) float32, or of a classifier
    'probabilities' (B, C).

    Raises:
        ImportError: the package onnx is missing.
    """
    import onnx

    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    outputs, classes = OUTPUTS[spec.info.task], len(spec.info.names)
    axes |= {name: {0: "batch", 1: "predictions"} if len(outputs) > 1 else {0: "batch"} for name in outputs}
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of every size that Python reads; the comparison at other sizes shows whether it matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ExportNetwork(model),
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
    if spec.half:
        _halve_weights_(graph)
    widths = (4, classes) if len(outputs) > 1 else (classes,)
    for output, width in zip(graph.graph.output, widths, strict=True):
        output.type.tensor_type.shape.dim[-1].dim_value = width  # the exporter loses it with dynamic sizes
    onnx.helper.set_model_props(graph, spec.metadata)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


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
