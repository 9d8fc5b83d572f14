"""OpenVINO: an .xml with its .bin, fast on Intel's CPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from models.detector import Detector
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.info import OWN_KEY
from models.runtimes import import_openvino, openvino_core


def write_openvino(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path` and the .bin beside it by way of ONNX, with the model's metadata in rt_info under 'cspdet'.

    Raises:
        ImportError: openvino or onnx is missing.
    """
    openvino = import_openvino()
    intermediate = path.with_suffix(".onnx")
    write_onnx(model, intermediate, replace(spec, half=False), kinds=("Conv",))  # the rest follows by itself
    graph = openvino_core().read_model(intermediate)
    for key, value in spec.metadata.items():
        graph.set_rt_info(value, ["cspdet", key])
    openvino.save_model(graph, path, compress_to_fp16=spec.half)
    del graph  # it may hold the file open
    intermediate.unlink()
    if spec.layout.kind == "yolo":
        write_yolo_metadata(path, spec)


def write_yolo_metadata(path: Path, spec: ExportSpec) -> None:
    """Write metadata.yaml beside `path`, which readers of Ultralytics' files look for there."""
    values: dict[str, object] = {key: value for key, value in spec.metadata.items() if key != OWN_KEY}
    values |= {"names": dict(enumerate(spec.info.names)), "imgsz": list(spec.info.image_size)}
    values |= {"stride": spec.info.stride, "batch": spec.batch_size, "channels": 3}
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    path.with_name("metadata.yaml").write_text(text, encoding="utf-8")
