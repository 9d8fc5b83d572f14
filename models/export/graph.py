"""Adding nodes to an ONNX graph, and folding what is constant in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.runtimes import import_onnxruntime

if TYPE_CHECKING:
    import onnx  # else imported where it is needed


class Nodes:
    """Adds nodes to a graph; values are their names.

    >>> import onnx
    >>> graph = onnx.helper.make_graph([], "sum", [], [])
    >>> nodes = Nodes(graph, "two")
    >>> nodes("Add", nodes.constant(1.0), nodes.constant(2.0))
    'two.3'

    Args:
        graph: nodes and constants are appended to it.
        prefix: of the names that are made, so that they differ from those in the graph.
    """

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.made = 0

    def __call__(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """The output of a new node; '' stands for an input that is left out."""
        return self.several(kind, *inputs, names=(name or self._next(),), **attributes)[0]

    def several(self, kind: str, *inputs: str, names: tuple[str, ...] | int, **attributes: Any) -> tuple[str, ...]:
        """The outputs of a new node, by name or as many as wanted."""
        from onnx import helper

        outputs = tuple(self._next() for _ in range(names)) if isinstance(names, int) else names
        self.graph.node.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, value: Any, kind: str = "float32") -> str:
        """A constant of any shape."""
        from onnx import numpy_helper

        name = self._next()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def whole(self, *values: int) -> str:
        """A constant (n,) int64, as shapes, axes and indices are."""
        return self.constant(values, "int64")

    def cast(self, value: str, kind: str) -> str:
        """The same values as another type: 'FLOAT', 'INT64', ..."""
        from onnx import TensorProto

        return self("Cast", value, to=getattr(TensorProto, kind))

    def part(self, value: str, start: int, end: int, axis: int) -> str:
        """A slice along an axis."""
        return self("Slice", value, self.whole(start), self.whole(end), self.whole(axis))

    def side(self, value: str, axis: int) -> str:
        """The length of an axis, (1,) int64."""
        return self("Gather", self("Shape", value), self.whole(axis), axis=0)

    def _next(self) -> str:
        self.made += 1
        return f"{self.prefix}.{self.made}"


def fold_constants(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same graph without nodes whose results are known; unchanged where ONNX Runtime is missing.

    ONNX Runtime's basic optimisations keep to the operators of the standard.

    Args:
        path: a file that may be written, and is removed again.
    """
    import onnx

    try:
        onnxruntime = import_onnxruntime()
    except ImportError:
        return model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.intra_op_num_threads = 1
    onnx.save(model, str(path.with_suffix(".whole.onnx")))
    try:
        onnxruntime.InferenceSession(str(path.with_suffix(".whole.onnx")), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(str(path))
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".whole.onnx").unlink()
    if any(node.domain not in ("", "ai.onnx") for node in folded.graph.node):
        return model  # operators that other readers do not know
    del folded.opset_import[:]
    folded.opset_import.extend(model.opset_import)
    folded.ir_version = model.ir_version
    return folded


def set_input(graph: onnx.GraphProto, name: str, kind: str, shape: tuple[int | str, ...]) -> None:
    """Make `name` the graph's only input; sides that are not fixed have a name."""
    from onnx import TensorProto, helper

    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape))


def set_outputs(graph: onnx.GraphProto, outputs: dict[str, tuple[str, tuple[int | str, ...]]]) -> None:
    """Make these the graph's outputs: name -> type and shape."""
    from onnx import TensorProto, helper

    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)
        for name, (kind, shape) in outputs.items()
    )


def rename_value(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a value of the graph another name, wherever it is made or used."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
