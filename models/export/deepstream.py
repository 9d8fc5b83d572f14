"""The two text files that NVIDIA DeepStream reads beside an ONNX file, for the parser of DeepStream-Yolo."""

from __future__ import annotations

from pathlib import Path

from models.export.network import ExportSpec
from models.layouts import Final
from utils.choices import PADDED
from utils.files import write_lines
from utils.metrics.calibration import uncalibrated


def write_deepstream(path: Path, spec: ExportSpec) -> None:
    """Write config_infer_primary_NAME.txt and labels.txt beside `path`, NAME.onnx."""
    write_lines(path.with_name("labels.txt"), spec.info.names)
    write_lines(path.with_name(f"config_infer_primary_{path.stem}.txt"), config_lines(path.name, spec))


def config_lines(file: str, spec: ExportSpec) -> list[str]:
    """The settings of an inference element, with detect.py's thresholds.

    Args:
        file: name of the ONNX file.
    """
    kept, centred = int(spec.info.resize in PADDED), int(spec.info.resize == "letterbox")
    final = Final()
    suppress = spec.info.nms != "none"
    return [
        "[property]",
        "gpu-id=0",
        f"net-scale-factor={1 / 255:.16f}",
        "model-color-format=0",
        f"onnx-file={file}",
        f"model-engine-file={file}_b{spec.batch_size}_gpu0_fp32.engine",
        "labelfile-path=labels.txt",
        f"batch-size={spec.batch_size}",
        "network-mode=0",
        f"num-detected-classes={len(spec.info.names)}",
        "gie-unique-id=1",
        "process-mode=1",
        "network-type=0",
        f"cluster-mode={2 if suppress else 4}",
        f"maintain-aspect-ratio={kept}",
        f"symmetric-padding={centred}",
        "parse-bbox-func-name=NvDsInferParseYolo",
        "custom-lib-path=nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so",
        "",
        "[class-attrs-all]",
        f"pre-cluster-threshold={uncalibrated(final.conf_thres, spec.info.temperature):.6g}",
        *([f"nms-iou-threshold={final.iou_thres}"] if suppress else []),
        f"topk={final.max_det}",
    ]
