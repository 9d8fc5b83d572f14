"""OpenVINO: an .xml with its .bin, for Intel CPUs."""

from __future__ import annotations

from pathlib import Path

from models.export.network import ExportNetwork, ExportSpec
from models.export.onnx import write_onnx
from models.runtimes import import_openvino


def write_openvino(network: ExportNetwork, path: Path, spec: ExportSpec) -> None:
    """Write `path` and its .bin by way of ONNX, with the model's metadata in rt_info under 'cspdet'.

    Args:
        network: in fp32; with `spec.half` OpenVINO itself stores the weights in fp16 and computes as its plugin sees fit.
    Raises:
        ImportError: openvino or onnx is missing.
    """
    openvino = import_openvino()
    intermediate = path.with_suffix(".onnx")
    write_onnx(network, intermediate, spec)
    model = openvino.Core().read_model(intermediate)
    for key, value in spec.metadata.items():
        model.set_rt_info(value, ["cspdet", key])
    openvino.save_model(model, path, compress_to_fp16=spec.half)
    del model  # it may still map the file
    intermediate.unlink()
