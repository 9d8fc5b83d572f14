"""Writer: the steps of a traced model as the sections of a darknet cfg.

Each kind of step has a function (writer, node, its layer) -> the index of its section; `_STEPS` lists them.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from models.darknet.head_sections import Options, level_sections
from models.darknet.sections import Section
from models.darknet.trace import Shapes, is_prediction, layer_of, trace
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.layers import SPP, ConvNormAct, Maxout, Shortcut, WeightedShortcut
from utils.config import ConfigError

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "linear",
    nn.LeakyReLU: "leaky",
    nn.ReLU: "relu",
    nn.Mish: "mish",
    nn.SiLU: "swish",
    nn.Sigmoid: "logistic",
}


class Writer:
    """Turns nodes into sections.

    Args:
        size: (height, width) of the image; shapes are taken at it.
    Attributes:
        sections: those written so far, without [net].
        index_of: index of the section whose output is a node's value; -1 for the image.
        shapes: (B, C, H, W) of a node's value, by the node's name.
    """

    def __init__(self, model: Detector, size: tuple[int, int]) -> None:
        twin = copy.deepcopy(model).to("meta").eval()
        self.graph = trace(twin)
        shapes = Shapes(fx.GraphModule(twin, self.graph))
        with torch.no_grad():
            shapes.run(torch.zeros(1, 3, *size, device="meta"))
        self.shapes = shapes.shapes
        self.model = model
        self.sections: list[Section] = []
        self.index_of: dict[fx.Node, int] = {}

    def write(self, node: fx.Node) -> None:
        """The sections of one node."""
        if node.op == "placeholder":
            self.index_of[node] = -1
        elif is_prediction(node):
            self._predict(node)
        elif node.op != "output":
            self.index_of[node] = self._layer(node)

    def emit(self, kind: str, options: Options) -> int:
        """Add a section that reads the last one; returns its index."""
        self.sections.append(Section(kind, 0, options))
        return self.last

    @property
    def last(self) -> int:
        """The index of the section written last."""
        return len(self.sections) - 1

    def reach(self, node: fx.Node) -> None:
        """Make the value of `node` what the next section reads."""
        index = self.index_of[node]
        if index != self.last:
            self.emit("route", {"layers": self.back(index)})

    def back(self, *indices: int) -> str:
        """Layers as the next section names them, counted back from itself."""
        if -1 in indices:
            raise ConfigError("a darknet cfg cannot go back to the image, which two layers of this model read")
        return ",".join(str(index - len(self.sections)) for index in indices)

    def _layer(self, node: fx.Node) -> int:
        module = layer_of(self.model, node)
        key = type(module) if module is not None else node.target
        if key not in _STEPS:
            raise ConfigError(
                f"darknet has no section for {_describe_step(node, module)}; this model cannot be written as a cfg"
            )
        return _STEPS[key](self, node, module)

    def _predict(self, node: fx.Node) -> None:
        """The head's convolution of one level, and the yolo or region layer."""
        head = self.model.head
        assert isinstance(head, AnchorHead)
        level = int(str(node.target).rpartition(".")[2])
        self.reach(_inputs(node)[0])
        for kind, options in level_sections(head, level):
            self.index_of[node] = self.emit(kind, options)


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The steps whose values a step takes, one by one or in a list."""
    arguments = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
    return [each for each in arguments if isinstance(each, fx.Node)]


def _describe_step(node: fx.Node, module: nn.Module | None = None) -> str:
    """A step for messages: a layer by its name and type, another one with the layer it is part of."""
    if module is not None:
        return f"'{node.target}' ({type(module).__name__})"
    function = node.target if isinstance(node.target, str) else node.target.__name__
    around = list(node.meta.get("nn_module_stack", {}).values())
    if not around:
        return f"'{function}'"
    path, kind = around[-1]
    return f"'{function}' in '{path}' ({kind.__name__})"


def _write_convolution(writer: Writer, node: fx.Node, module: ConvNormAct | nn.Conv2d) -> int:
    writer.reach(_inputs(node)[0])
    conv = module if isinstance(module, nn.Conv2d) else module.conv
    pairs = [conv.kernel_size, conv.stride, conv.padding, conv.dilation]
    size, stride, padding, dilation = (int(pair[0]) for pair in pairs)
    square = all(len(set(pair)) == 1 for pair in pairs)
    if not square or padding % dilation or (conv is module and conv.bias is None):
        raise ConfigError(f"darknet has no convolution like '{node.target}': {conv}")
    padding //= dilation  # darknet multiplies it by the dilation
    options: Options = {} if conv is module else {"batch_normalize": 1}
    options |= {"filters": conv.out_channels, "size": size, "stride": stride}
    if conv.groups > 1:
        options["groups"] = conv.groups
    if dilation > 1:
        options["dilation"] = dilation
    options |= {"pad": 1} if padding == size // 2 else {"padding": padding}
    activation = module.act if isinstance(module, ConvNormAct) else nn.Identity()
    return writer.emit("convolutional", {**options, "activation": _activation(activation, str(node.target))})


def _activation(module: nn.Module, name: str) -> str:
    other_slope = isinstance(module, nn.LeakyReLU) and module.negative_slope != 0.1
    if type(module) not in _ACTIVATIONS or other_slope:
        raise ConfigError(f"darknet has no activation like that of '{name}': {module}")
    return _ACTIVATIONS[type(module)]


def _write_activation(writer: Writer, node: fx.Node, module: nn.Module | None) -> int:
    """An activation by itself joins the linear convolution before it."""
    source = _inputs(node)[0]
    index = writer.index_of[source]
    section = writer.sections[index] if index == writer.last >= 0 else None
    if section is None or section.options.get("activation") != "linear" or len(source.users) > 1:
        raise ConfigError(f"darknet has no section for an activation by itself: {_describe_step(node, module)}")
    section.options["activation"] = "logistic" if module is None else _activation(module, node.name)
    return index


def _write_shortcut(writer: Writer, node: fx.Node, module: Shortcut | None) -> int:
    nodes = _inputs(node)
    if module is None and (len(nodes) < 2 or writer.shapes[nodes[0].name] != writer.shapes[nodes[1].name]):
        raise ConfigError(f"darknet adds maps of one size only, unlike {_describe_step(node)}")
    current, source = nodes
    if module is None and writer.index_of[current] != writer.last and writer.index_of[source] == writer.last:
        current, source = source, current
    writer.reach(current)
    activation = "linear" if module is None else _activation(module.act, str(node.target))
    return writer.emit("shortcut", {"from": writer.back(writer.index_of[source]), "activation": activation})


def _write_weighted_shortcut(writer: Writer, node: fx.Node, module: WeightedShortcut) -> int:
    current, *sources = _inputs(node)
    writer.reach(current)
    options: Options = {"from": writer.back(*(writer.index_of[each] for each in sources))}
    if module.weights is not None:
        options["weights_type"] = "per_feature" if module.weights.shape[1] == 1 else "per_channel"
        options["weights_normalization"] = module.normalization
    return writer.emit("shortcut", {**options, "activation": _activation(module.act, str(node.target))})


def _write_maxout(writer: Writer, node: fx.Node, module: Maxout) -> int:
    writer.reach(_inputs(node)[0])
    return writer.emit("maxpool", {"maxpool_depth": 1, "out_channels": module.out_channels, "stride": 1})


def _write_pyramid(writer: Writer, node: fx.Node, module: SPP) -> int:
    (source,) = _inputs(node)
    pooled = []
    for kernel in module.kernels:
        writer.reach(source)
        pooled.append(writer.emit("maxpool", {"stride": 1, "size": kernel}))
    return writer.emit("route", {"layers": writer.back(*reversed(pooled), writer.index_of[source])})


def _write_padding(writer: Writer, node: fx.Node, module: nn.ConstantPad2d) -> int:
    """One column at the right and one row below: what a max pool of size 2 and stride 1 has in darknet."""
    pools = [layer_of(writer.model, user) for user in node.users]
    fit = all(isinstance(pool, nn.MaxPool2d) and (pool.kernel_size, pool.stride) == (2, 1) for pool in pools)
    if tuple(module.padding) != (0, 1, 0, 1) or module.value != -math.inf or not fit:
        raise ConfigError(f"darknet has no section for {_describe_step(node, module)}: {module}")
    return writer.index_of[_inputs(node)[0]]


def _write_pool(writer: Writer, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> int:
    (source,) = _inputs(node)
    writer.reach(source)
    if isinstance(layer_of(writer.model, source), nn.ConstantPad2d):
        return writer.emit("maxpool", {"size": 2, "stride": 1})
    size, stride, padding = module.kernel_size, module.stride, module.padding
    kind = "local_avgpool" if isinstance(module, nn.AvgPool2d) else "maxpool"
    even = not any(side % 2 for side in writer.shapes[source.name][2:])
    if (size, stride, padding) == (2, 2, 0) and (module.ceil_mode or even):
        return writer.emit(kind, {"size": 2, "stride": 2})
    dilated = isinstance(module, nn.MaxPool2d) and module.dilation != 1
    with_padding = isinstance(module, nn.AvgPool2d) and module.count_include_pad and padding
    fits = not (dilated or with_padding or module.ceil_mode)
    if not (fits and isinstance(size, int) and isinstance(stride, int) and isinstance(padding, int)):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    # Darknet counts the padding of both sides together, and by default there is one cell less than the window has.
    options: Options = {"size": size, "stride": stride}
    return writer.emit(kind, options if 2 * padding == size - 1 else {**options, "padding": 2 * padding})


def _write_global_pool(writer: Writer, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> int:
    if module.output_size not in (1, (1, 1)):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    writer.reach(_inputs(node)[0])
    return writer.emit("avgpool", {})


def _write_upsample(writer: Writer, node: fx.Node, module: nn.Upsample) -> int:
    if module.mode != "nearest":
        raise ConfigError(f"darknet upsamples by repetition only, '{node.target}' by {module.mode}")
    if not isinstance(module.scale_factor, float):
        raise ConfigError(f"darknet upsamples by one factor for both sides, unlike '{node.target}': {module}")
    writer.reach(_inputs(node)[0])
    return writer.emit("upsample", {"stride": int(module.scale_factor)})


def _write_route(writer: Writer, node: fx.Node, module: None) -> int:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != 1:
        raise ConfigError(f"darknet joins maps by channel; '{node.name}' joins by dimension {dim}")
    return writer.emit("route", {"layers": writer.back(*(writer.index_of[each] for each in _inputs(node)))})


def _write_chunks(writer: Writer, node: fx.Node, module: None) -> int:
    """The parts of a map stand for nothing by themselves; `_write_slice` takes one of them."""
    return writer.index_of[_inputs(node)[0]]


def _write_slice(writer: Writer, node: fx.Node, module: None) -> int:
    """x[:, start:stop], where it is one of several equal parts; or one of x.chunk(n, dim=1)."""
    source, index = _inputs(node)[0], node.args[1]
    if source.target == "chunk" and isinstance(index, int):
        dim = source.kwargs.get("dim", source.args[2] if len(source.args) > 2 else 0)
        whole, groups = writer.shapes[_inputs(source)[0].name][1], source.args[1]
        if dim == 1 and isinstance(groups, int) and whole % groups == 0:
            return _emit_part(writer, source, groups, index % groups)
    if not isinstance(index, tuple) or len(index) < 2 or index[0] != slice(None) or not isinstance(index[1], slice):
        raise ConfigError(f"darknet has no section for the selection {_describe_step(node)}")
    channels = writer.shapes[source.name][1]
    start, stop, _ = index[1].indices(channels)
    width = stop - start
    if width < 1 or channels % width or start % width:
        raise ConfigError(
            f"'{node.name}' takes channels {start} to {stop} of {channels}; darknet cuts maps into equal parts only"
        )
    return _emit_part(writer, source, channels // width, start // width)


def _emit_part(writer: Writer, source: fx.Node, groups: int, group_id: int) -> int:
    """One of several equal parts of a map, by channel."""
    layers = writer.back(writer.index_of[source])
    return writer.emit("route", {"layers": layers, "groups": groups, "group_id": group_id})


def _write_flatten(writer: Writer, node: fx.Node, module: None) -> int:
    """(B, C, 1, 1) -> (B, C), the end of a classifier; the same numbers in a darknet file."""
    source = _inputs(node)[0]
    if writer.shapes[source.name][2:].numel() != 1:
        raise ConfigError(f"darknet has no section for '{node.name}', which makes one row of a whole map")
    return writer.index_of[source]


def _write_product(writer: Writer, node: fx.Node, module: None) -> int:
    inputs = _inputs(node)
    if len(inputs) != 2:
        raise ConfigError(f"darknet multiplies two maps only, unlike {_describe_step(node)}")
    first, second = inputs
    gate, source = (first, second) if writer.index_of[first] == writer.last else (second, first)
    gate_shape, source_shape = writer.shapes[gate.name], writer.shapes[source.name]
    writer.reach(gate)
    options: Options = {"from": writer.back(writer.index_of[source])}
    if gate_shape == source_shape:
        return writer.emit("sam", options)
    return writer.emit("scale_channels", {**options, "scale_wh": 1} if gate_shape[1] == 1 else options)


_STEPS: dict[Any, Callable[[Writer, fx.Node, Any], int]] = {
    ConvNormAct: _write_convolution,
    nn.Conv2d: _write_convolution,
    **dict.fromkeys((nn.Sigmoid, nn.LeakyReLU, nn.ReLU, nn.Mish, nn.SiLU), _write_activation),
    torch.sigmoid: _write_activation,
    Shortcut: _write_shortcut,
    operator.add: _write_shortcut,
    WeightedShortcut: _write_weighted_shortcut,
    Maxout: _write_maxout,
    SPP: _write_pyramid,
    nn.ConstantPad2d: _write_padding,
    nn.MaxPool2d: _write_pool,
    nn.AvgPool2d: _write_pool,
    nn.AdaptiveAvgPool2d: _write_global_pool,
    nn.Upsample: _write_upsample,
    torch.cat: _write_route,
    operator.getitem: _write_slice,
    "chunk": _write_chunks,
    "flatten": _write_flatten,
    operator.mul: _write_product,
    torch.mul: _write_product,
}
"""By type of layer, function or name of a tensor's method."""
