"""ONNX: one file for ONNX Runtime, TensorRT and others."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from models.export.network import INPUT, OUTPUTS, ExportNetwork, ExportSpec

# Known to every runtime since 2022; nothing newer is needed.
OPSET = 17


def write_onnx(network: ExportNetwork, path: Path, spec: ExportSpec) -> None:
    """Write `path`, checked by ONNX itself, with the model's metadata.

    Input 'images' (B, 3, H, W) float32; outputs 'boxes' (B, N, 4) and 'scores' (B, N, C) float32.

    Raises:
        ImportError: the package onnx is missing.
    """
    import onnx

    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    axes |= {name: {0: "batch", 1: "predictions"} for name in OUTPUTS}
    with torch.inference_mode(), warnings.catch_warnings():
        # The tracer warns of every shape that Python looks at; the comparison at other sizes tells whether it matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (spec.example(),),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=axes if spec.dynamic else None,
            opset_version=OPSET,
            # The newer exporter needs another package and twenty times the time, for the same graph.
            dynamo=False,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, spec.metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
