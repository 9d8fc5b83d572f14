"""Predictors that need no torch, which is not even imported: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from models.info import CALLS, ModelInfo, Predictor, Values
from models.layouts import Layout, as_pictures
from utils.config import ConfigError
from utils.text import first_line, shown
from utils.threads import usable_cores

_SHAPES = 4
"""Shapes of inputs that OpenVINO keeps a model compiled for."""


class OnnxPredictor(Predictor):
    """An ONNX file: input 'images' (B, 3, H, W), outputs of OUTPUTS; metadata from ModelInfo.to_metadata.

    Args:
        device: 'cpu', or 'cuda:N' for an ONNX Runtime that has CUDA.
        threads: to compute with on the CPU; None leaves them to ONNX Runtime.
        calls: threads that call it at once, and compute too.
    """

    def __init__(self, path: Path, device: str = "cpu", *, threads: int | None = None, calls: int = 1) -> None:
        try:
            onnxruntime = import_onnxruntime()
        except ImportError:
            raise ConfigError(f"{path}: needs ONNX Runtime, which is not installed: pip install onnxruntime") from None
        providers: list[Any] = ["CPUExecutionProvider"]
        kind, _, number = device.partition(":")
        if kind == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
        if kind == "mps" or (kind == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers()):
            raise ConfigError(
                f"{path}: this ONNX Runtime cannot use {device}; use --device cpu, or for CUDA install "
                "onnxruntime-gpu in its place"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised too; said once is enough
        options.intra_op_num_threads = threads - calls + 1 if threads else 0
        # Threads that spin while they wait take the cores from those that decode, draw and encode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions share no other base
            raise ConfigError(f"{path}: ONNX Runtime cannot load it: {first_line(error)}") from None
        shapes = {each.name: each.shape for each in (*self.session.get_inputs(), *self.session.get_outputs())}
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.batch, info, self.layout = _described(shapes, metadata, where=str(path))
        runtime = f"ONNX Runtime {onnxruntime.__version__} on {device}{self.layout.note}"
        super().__init__(info, device="cpu", precision=precision_of(metadata), runtime=runtime)
        self.calls = calls
        self._path, self._threads = path, (threads or usable_cores()) if kind == "cpu" else 1

    @contextmanager
    def side_by_side(self) -> Iterator[Predictor]:
        """See Predictor."""
        calls = min(self._threads, CALLS)
        yield OnnxPredictor(self._path, threads=self._threads, calls=calls) if calls > 1 else self

    def predict(self, images: Values) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """See Predictor."""

        def run(part: np.ndarray) -> list[np.ndarray]:
            return self.session.run(list(self.layout.outputs(self.info.task)), {self.layout.input: part})

        return predict_by(run, images, self.layout, self.info, self.batch)


class OpenVinoPredictor(Predictor):
    """An OpenVINO .xml with its .bin, on the CPU: names as in ONNX; metadata in rt_info under 'cspdet'.

    A file for any size is compiled for each shape of its inputs, which makes it as fast as one for that size alone.

    Args:
        threads: to compute with; None leaves them to OpenVINO.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        try:
            openvino = import_openvino()
        except ImportError:
            raise ConfigError(f"{path}: needs OpenVINO, which is not installed: pip install openvino") from None
        self._core, self._path = openvino_core(), path
        # Without the hint some CPUs compute in bf16, and the figures would not be those of the other formats.
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        with self._named_errors():
            model = self._core.read_model(path)
        self._compiled: dict[tuple[int, ...], Any] = {}
        """By the shape of the input, the one used last at the end."""
        keys = model.get_rt_info("cspdet").value if model.has_rt_info("cspdet") else {}
        keys = keys if isinstance(keys, Mapping) else {}
        metadata = {key: str(model.get_rt_info(["cspdet", key]).value) for key in keys}
        shapes = {
            name: [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
            for port in (*model.inputs, *model.outputs)
            for name in port.get_names()
        }
        self.batch, info, self.layout = _described(shapes, metadata, where=str(path))
        self._any = None in shapes[self.layout.input] and not self.layout.picture
        if not self._any:
            with self._named_errors():
                self._compiled[()] = self._core.compile_model(model, "CPU", self._options)
        runtime = f"OpenVINO {openvino.__version__.split('-')[0]} on cpu{self.layout.note}"
        super().__init__(info, device="cpu", precision=precision_of(metadata), runtime=runtime)

    def predict(self, images: Values) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """See Predictor."""

        def run(part: np.ndarray) -> list[np.ndarray]:
            outputs = self._for_shape(part.shape if self._any else ())({self.layout.input: part})
            return [outputs[name] for name in self.layout.outputs(self.info.task)]

        return predict_by(run, images, self.layout, self.info, self.batch)

    def _for_shape(self, shape: tuple[int, ...]) -> Any:
        """The compiled model for inputs of a shape, one of the few that were used last."""
        if shape not in self._compiled:
            with self._named_errors():
                model = self._core.read_model(self._path)
                model.reshape({self.layout.input: list(shape)})
                self._compiled[shape] = self._core.compile_model(model, "CPU", self._options)
        self._compiled[shape] = self._compiled.pop(shape)
        if len(self._compiled) > _SHAPES:
            del self._compiled[next(iter(self._compiled))]
        return self._compiled[shape]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ConfigError(f"{self._path}: OpenVINO cannot load it: {first_line(error)}") from None


def import_onnxruntime() -> ModuleType:
    """The package onnxruntime, kept from the network.

    From 1.31 on it sends what it does to its maker and makes a folder in the user's home, unless it is told not to
    before it is imported.

    Raises:
        ImportError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def import_openvino() -> ModuleType:
    """The package openvino, kept from the network.

    Its import would send a message to a usage counter and make a folder in the user's home, by openvino_telemetry,
    which pip installs along with it. Without that package it does neither.

    Raises:
        ImportError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """The one openvino.Core of this process.

    Its CPU plugin gives the thread a stack for signals, and gives the former one back at its end. Two plugins that end
    in the order in which they began leave a stack that is freed: the next signal ends the process (SIGSEGV).

    Raises:
        ImportError: openvino is not installed.
    """
    return import_openvino().Core()


def precision_of(metadata: Mapping[str, str]) -> str:
    """What the file was exported with; fp32 where it does not say."""
    return str(metadata.get("precision", "fp32"))


def _described(
    shapes: Mapping[str, Sequence[int | str | None]], metadata: Mapping[str, str], *, where: str
) -> tuple[int | None, ModelInfo, Layout]:
    """The batch that a file takes, None for any, and what its metadata says.

    Args:
        shapes: of inputs and outputs by name; sides that are not fixed are no int.
    Raises:
        ConfigError: not an export of ours.
    """
    try:
        layout = Layout.from_metadata(metadata)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        ModelInfo.from_metadata(metadata, shape=(None, None), where=where)  # says what is wrong, if it is in its part
        raise ConfigError(
            f"{where}: its metadata is wrong ({first_line(error)}); export the checkpoint again"
        ) from None
    source = [side if isinstance(side, int) else None for side in shapes.get(layout.input, ())]
    if len(source) != 4:
        inputs = ", ".join(shown(name) for name in list(shapes)[:5])
        raise ConfigError(
            f"{where}: not a detector exported by CSPDet: expected an input 'images' (batch, 3, height, width), found "
            f"{inputs or 'none'}; export the checkpoint with export.py"
        )
    info = ModelInfo.from_metadata(
        metadata, shape=(source[2], source[3]) if not layout.picture else (None, None), where=where
    )
    if layout.final:
        info = replace(info, nms="none", temperature=1.0)  # both are in the file
    classes, names = layout.classes(shapes, info.task), layout.outputs(info.task)
    missing = [name for name in names if name not in shapes]
    if missing or classes not in (None, len(info.names)):
        wrong = f"no output '{missing[0]}'" if missing else f"{classes} classes and {len(info.names)} names"
        raise ConfigError(f"{where}: not a detector exported by CSPDet: it has {wrong}; export the checkpoint again")
    return source[0], info, layout


def predict_by(
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
    images: Values,
    layout: Layout,
    info: ModelInfo,
    batch: int | None,
) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
    """`Predictor.predict` by a runtime.

    Args:
        run: what the file gives for an array as it takes it, in the order of its outputs.
        batch: images at a time, None for any number.
    """
    if layout.picture:
        array = as_pictures(images if isinstance(images, np.ndarray) else images.cpu().numpy())
    else:
        array = _as_input(images)
    return _in_batches(lambda part: layout.candidates(run(part), len(info.names)), array, batch)


def _as_input(images: Values) -> np.ndarray:
    """Images as `predict` takes them -> float32 in [0, 1], in one piece."""
    array = images if isinstance(images, np.ndarray) else images.cpu().numpy()
    if array.dtype == np.uint8:
        array = array.astype(np.float32, order="C")
        array /= 255
    return np.ascontiguousarray(array, np.float32)


def _in_batches(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray, size: int | None
) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
    """What a file that takes `size` images at a time (None: as many as come) gives for any number of them."""
    parts = []
    for start in range(0, len(images), size or max(len(images), 1)):
        part = images[start : start + (size or len(images))]
        count = len(part)
        if size is not None and count < size:
            part = np.concatenate((part, np.zeros((size - count, *part.shape[1:]), part.dtype)))
        parts.append([output[:count] for output in run(part)])
    whole = [
        (outputs[0] if len(outputs) == 1 else np.concatenate(outputs)).astype(np.float32, copy=False)
        for outputs in zip(*parts, strict=True)
    ]
    return (whole[0], whole[1]) if len(whole) > 1 else whole[0]
