"""OpenVINO: an .xml with its .bin, fast on Intel's CPUs."""

from __future__ import annotations

from pathlib import Path

from models.detector import Detector
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.runtimes import import_openvino


def write_openvino(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path` and the .bin beside it by way of ONNX, with the model's metadata in rt_info under 'cspdet'.

    Raises:
        ImportError: openvino or onnx is missing.
    """
    openvino = import_openvino()
    intermediate = path.with_suffix(".onnx")
    write_onnx(model, intermediate, ExportSpec(spec.info, spec.batch_size, spec.dynamic))
    graph = openvino.Core().read_model(intermediate)
    for key, value in spec.metadata.items():
        graph.set_rt_info(value, ["cspdet", key])
    openvino.save_model(graph, path, compress_to_fp16=spec.half)
    del graph  # it may hold the file open
    intermediate.unlink()
