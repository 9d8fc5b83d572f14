"""Weights and activations in int8, by post-training calibration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.layouts import INPUT
from models.runtimes import import_onnxruntime

if TYPE_CHECKING:
    import onnx  # else imported where it is needed

KINDS = ("Conv", "Add", "Concat", "MaxPool", "Resize", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool")
"""Operators that are computed in int8."""
PARTS = ("/model/backbone", "/model/neck")
"""Names of the nodes that are; the head stays in fp32: its values are coordinates and logits, which int8 rounds."""


def quantize(model: onnx.ModelProto, images: np.ndarray, path: Path, kinds: Sequence[str] = KINDS) -> onnx.ModelProto:
    """The same graph with backbone and neck in int8, in the standard's QuantizeLinear and DequantizeLinear.

    Weights have a scale for each output channel. The ranges of activations are those that the images show.

    Args:
        images: (K, 3, H, W) uint8, in the shape that the graph takes but for K.
        path: a file that may be written, and is removed again.
        kinds: operators to compute in int8.
    """
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    chosen = [node.name for node in model.graph.node if node.name.startswith(PARTS) and node.op_type in kinds]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises to do what was done
    try:
        quantize_static(
            model,
            str(path),
            _Images(images, _batch_of(model)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(kinds),
            nodes_to_quantize=chosen,
        )
        return onnx.load(str(path))
    finally:
        logging.getLogger().setLevel(level)
        path.unlink(missing_ok=True)


def _batch_of(model: onnx.ModelProto) -> int:
    """Images that the graph takes at a time; 1 where it takes any number."""
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1


class _Images:
    """The images as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: np.ndarray, batch: int) -> None:
        self.batches: Iterator[np.ndarray] = (
            images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.astype(np.float32) / np.float32(255)}
