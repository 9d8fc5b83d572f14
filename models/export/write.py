"""Write a model for another runtime, run it beside the original, and keep the file when both agree."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from models.detector import Detector
from models.export.compare import ROUNDINGS, TOLERANCE, TOLERANCE_HALF, Difference, ExportError, own_rounding
from models.export.compare_detections import compare_as_layout, trial_spec
from models.export.darknet import write_darknet, write_first_layers
from models.export.formats import FORMATS, Format
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.export.openvino import write_openvino
from models.export.torchscript import write_torchscript
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from utils.files import move_into_place

WRITERS: dict[str, Callable[[Detector, Path, ExportSpec], None]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "torchscript": write_torchscript,
    "darknet": write_darknet,
}
"""Format -> what writes the file that `--weights` takes, and what belongs beside it."""


def export(
    original: ModelPredictor, kind: str, output: Path, spec: ExportSpec, *, trial: Path | None = None
) -> tuple[Difference, list[Path]]:
    """Write a model, run it beside the original, and put it in place when both agree.

    Args:
        original: on the CPU.
        kind: a key of FORMATS.
        trial: for a file that ends in detections, where its `trial_spec` is left; None leaves none.
    Returns:
        The largest difference, and the files, `output` first.
    Raises:
        ExportError: it does not run, or they differ by more than the tolerance; then nothing is written, and an older
            file stays.
        ConfigError: the format cannot hold the model.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        draft = Path(folder, output.name)
        shapes = shapes_to_compare(spec, FORMATS[kind])
        if spec.layout.final:
            with tempfile.TemporaryDirectory() as other:
                path = trial or Path(other, output.name)
                difference = _write_and_compare(original, kind, path, trial_spec(original, spec, shapes), shapes)
        again = _write_and_compare(original, kind, draft, spec, shapes)
        difference = difference.larger(again) if spec.layout.final else again
        tolerance = tolerance_of(spec)
        if tolerance < difference.share < TOLERANCE_HALF:  # rare: worth a second look
            tolerance = max(tolerance, min(ROUNDINGS * own_rounding(original.model, shapes), TOLERANCE_HALF))
        if not difference.within(tolerance):
            raise ExportError(f"it differs from the original by {difference}; allowed is {tolerance:.0e}")
        # The file that is named comes last: when it is there, so are those beside it.
        files = sorted(Path(folder).iterdir(), key=lambda file: file.name == output.name)
        for file in files:
            move_into_place(file, output.with_name(file.name))
    return difference, [output.with_name(file.name) for file in reversed(files)]


def _write_and_compare(
    original: ModelPredictor, kind: str, path: Path, spec: ExportSpec, shapes: list[tuple[int, int, int]]
) -> Difference:
    """Write a file, open it as every command would, and run it beside the original."""
    WRITERS[kind](original.model, path, spec)
    cfg = path.with_suffix(".cfg") if kind == "darknet" else None
    exported = open_predictor(path, cfg=cfg, device="cpu", trust=True)  # it was written here, just now
    return compare_as_layout(original, exported, spec, shapes)


def tolerance_of(spec: ExportSpec) -> float:
    """The largest share that a file of this precision may differ by; int8 is judged by its AP instead."""
    if spec.calibration is not None:
        return sys.float_info.max
    return TOLERANCE_HALF if spec.half else TOLERANCE


def shapes_to_compare(spec: ExportSpec, form: Format) -> list[tuple[int, int, int]]:
    """(batch, height, width) of the inputs to compare with: the file's own, and others where it takes them."""
    height, width = spec.info.image_size
    shapes = [(spec.batch_size, height, width)]
    if spec.layout.picture:
        return shapes  # other sizes are made to be this one
    if spec.dynamic or form.open_sizes:
        stride = spec.info.stride * max(32 // spec.info.stride, 1)  # a classifier's says less than it needs
        shapes += [(1, height, width + stride), (spec.batch_size + 1, 2 * stride, 3 * stride)]
    return shapes


def export_first_layers(original: ModelPredictor, output: Path) -> str:
    """Write NAME.conv.N, the first N layers alone; returns the name of the last.

    Raises:
        ExportError, ConfigError: see `write_first_layers`; then nothing is written, and an older file stays.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        draft = Path(folder, output.name)
        last = write_first_layers(original.model, draft)
        move_into_place(draft, output)
    return last


def input_text(spec: ExportSpec, form: Format) -> str:
    """The inputs that a file takes and its precision, for the output."""
    height, width = spec.info.image_size
    if spec.layout.picture:
        rectangle = "the smallest rectangle of the stride in " if spec.dynamic else ""
        taken = f"a picture of any size, made {rectangle}{height}x{width} ({spec.info.resize})"
    elif spec.dynamic or form.open_sizes:
        taken = f"any batch and size, {height}x{width} by default"
    else:
        taken = f"{spec.batch_size} image{'s' if spec.batch_size > 1 else ''} of {height}x{width} at a time"
    return f"{taken}, {spec.precision}"
