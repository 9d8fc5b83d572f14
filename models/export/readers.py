"""An exported ONNX file read by every other runtime that is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.export.compare import Difference, ExportError
from models.export.compare_detections import compare_as_layout
from models.export.network import ExportSpec
from models.info import Predictor, Values
from models.runtimes import import_openvino, openvino_core, predict_by
from utils.opencv import silent_opencv
from utils.text import first_line

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Reading:
    """What another runtime made of a file.

    Args:
        runtime: with its version.
        difference: from the original; None where it cannot read the file.
        reason: why it cannot.
    """

    runtime: str
    difference: Difference | None
    reason: str = ""


class Reader(Predictor):
    """A file in another runtime, which knows nothing of its metadata."""

    def __init__(self, run: Run, spec: ExportSpec, runtime: str) -> None:
        super().__init__(spec.info, device="cpu", precision=spec.precision, runtime=runtime)
        self.run, self.spec = run, spec

    def predict(self, images: Values) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """See Predictor."""
        batch = 1 if self.spec.layout.picture else self.spec.batch_size
        return predict_by(self.run, images, self.spec.layout, self.info, batch)


def read_by_others(
    original: Predictor, path: Path, spec: ExportSpec, shapes: Sequence[tuple[int, int, int]]
) -> list[Reading]:
    """What OpenVINO and OpenCV, where they are installed, make of an ONNX file with a fixed shape."""
    readings = []
    for opener in (_openvino, _opencv):
        try:
            runtime, load = opener(path, spec)
        except ImportError:
            continue
        try:
            reader = Reader(load(), spec, runtime)
            readings.append(Reading(runtime, compare_as_layout(original, reader, spec, shapes)))
        except (ExportError, RuntimeError, ValueError) as error:
            readings.append(Reading(runtime, None, first_line(error)))
    return readings


def _openvino(path: Path, spec: ExportSpec) -> tuple[str, Callable[[], Run]]:
    openvino = import_openvino()

    def load() -> Run:
        compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = spec.layout.outputs(spec.info.task)
        return lambda part: [found[name] for found in [compiled({spec.layout.input: part})] for name in names]

    return f"OpenVINO {openvino.__version__.split('-')[0]}", load


def _opencv(path: Path, spec: ExportSpec) -> tuple[str, Callable[[], Run]]:
    import cv2

    def load() -> Run:
        if spec.layout.picture:
            raise ValueError("it takes no input of bytes whose size is open")
        try:
            with silent_opencv():  # what it says is in the exception too
                net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ExportError(_opencv_reason(error)) from None
        names = spec.layout.outputs(spec.info.task)

        def run(part: np.ndarray) -> Sequence[np.ndarray]:
            net.setInput(part, spec.layout.input)
            return net.forward(names)

        return run

    return f"OpenCV {cv2.__version__}", load


def _opencv_reason(error: Exception) -> str:
    """OpenCV's message, or the operator that it names."""
    operator = re.search(r"Node \[(\w+)@", str(error))
    return f"it does not know {operator[1]} in this form" if operator else first_line(error)
