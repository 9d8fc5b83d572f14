"""Writer: the steps of a traced detector as darknet sections."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from models.darknet.sections import Section
from models.darknet.trace import Shapes, calls_module, is_prediction, trace
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.layers import SPP, ConvNormAct, Shortcut
from utils.config import ConfigError

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "linear",
    nn.LeakyReLU: "leaky",
    nn.ReLU: "relu",
    nn.Mish: "mish",
    nn.SiLU: "swish",
    nn.Sigmoid: "logistic",
}


def anchor_options(head: AnchorHead) -> list[dict[str, Any]]:
    """mask, anchors and num of each level's yolo section; every level lists the anchors of all, each anchor once."""
    levels = [[tuple(pair) for pair in anchors.tolist()] for anchors in head.anchors]
    every = list(dict.fromkeys(pair for level in levels for pair in level))
    text = ",".join(f"{width:g},{height:g}" for width, height in every)
    masks = [",".join(str(every.index(pair)) for pair in level) for level in levels]
    return [{"mask": mask, "anchors": text, "num": len(every)} for mask in masks]


class Writer:
    """Turns nodes into sections.

    Args:
        size: (height, width) of the image; shapes are taken at it.
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
        self.place: dict[fx.Node, int] = {}

    def write(self, node: fx.Node) -> None:
        """The sections of one node."""
        if node.op == "placeholder":
            self.place[node] = -1
        elif is_prediction(node):
            self._predict(node)
        elif node.op != "output":
            self.place[node] = self._layer(node)

    def emit(self, kind: str, **options: Any) -> int:
        """Add a section that reads the last one; returns its index."""
        self.sections.append(Section(kind, 0, options))
        return self.last

    @property
    def last(self) -> int:
        return len(self.sections) - 1

    def reach(self, index: int) -> None:
        """Make layer `index` what the next section reads."""
        if index != self.last:
            self.emit("route", layers=self.back(index))

    def back(self, *indices: int) -> str:
        """Layers as the next section names them, counted back from itself."""
        if -1 in indices:
            raise ConfigError("a darknet cfg cannot go back to the image, which two layers of this model read")
        return ",".join(str(index - len(self.sections)) for index in indices)

    def _layer(self, node: fx.Node) -> int:
        module = self.model.get_submodule(node.target) if calls_module(node) else None
        key = type(module) if module is not None else node.target
        if key is nn.Identity or key is nn.Dropout:
            return self.place[node.args[0]]
        if key not in _WRITERS:
            name = node.target if module is not None else node.name
            kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
            raise ConfigError(f"darknet has no section for '{name}' ({kind}); this model cannot be written as a cfg")
        return _WRITERS[key](self, node, module)

    def _predict(self, node: fx.Node) -> None:
        """The head's convolution of one level, and the yolo layer."""
        head = self.model.head
        level = int(str(node.target).rpartition(".")[2])
        self.reach(self.place[node.args[0]])
        square = head.size == "square"
        filters = head.convs[level].out_channels
        activation = "logistic" if square else "linear"
        self.emit("convolutional", filters=filters, size=1, stride=1, pad=1, activation=activation)
        options = {**anchor_options(head)[level], "classes": head.num_classes, "scale_x_y": f"{head.scale_xy[level]:g}"}
        if square:
            options["new_coords"] = 1
        self.place[node] = self.emit("yolo", **options, iou_loss=head.box_loss)


def _write_convolution(writer: Writer, node: fx.Node, module: ConvNormAct | nn.Conv2d) -> int:
    writer.reach(writer.place[node.args[0]])
    conv = module.conv if isinstance(module, ConvNormAct) else module
    size, stride, padding, dilation = (pair[0] for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    if not square or dilation != 1 or (conv is module and conv.bias is None):
        raise ConfigError(f"darknet has no convolution like '{node.target}': {conv}")
    options: dict[str, Any] = {} if conv is module else {"batch_normalize": 1}
    options |= {"filters": conv.out_channels, "size": size, "stride": stride}
    if conv.groups > 1:
        options["groups"] = conv.groups
    options |= {"pad": 1} if padding == size // 2 else {"padding": padding}
    activation = nn.Identity() if conv is module else module.act
    return writer.emit("convolutional", **options, activation=_activation(activation, str(node.target)))


def _activation(module: nn.Module, name: str) -> str:
    if type(module) not in _ACTIVATIONS:
        raise ConfigError(f"darknet has no activation like that of '{name}': {module}")
    return _ACTIVATIONS[type(module)]


def _write_activation(writer: Writer, node: fx.Node, module: nn.Module | None) -> int:
    """An activation by itself joins the linear convolution before it."""
    index = writer.place[node.args[0]]
    section = writer.sections[index] if index == writer.last >= 0 else None
    if section is None or section.options.get("activation") != "linear" or len(node.args[0].users) > 1:
        raise ConfigError(f"darknet has no section for the activation '{node.name}' by itself")
    section.options["activation"] = "logistic" if module is None else _activation(module, node.name)
    return index


def _write_shortcut(writer: Writer, node: fx.Node, module: Shortcut | None) -> int:
    current, source = (writer.place[each] for each in node.args[:2])
    if module is None and current != writer.last and source == writer.last:
        current, source = source, current
    writer.reach(current)
    activation = "linear" if module is None else _activation(module.act, str(node.target))
    return writer.emit("shortcut", **{"from": writer.back(source)}, activation=activation)


def _write_pyramid(writer: Writer, node: fx.Node, module: SPP) -> int:
    source = writer.place[node.args[0]]
    pooled = []
    for kernel in module.kernels:
        writer.reach(source)
        pooled.append(writer.emit("maxpool", stride=1, size=kernel))
    return writer.emit("route", layers=writer.back(*reversed(pooled), source))


def _write_pool(writer: Writer, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> int:
    writer.reach(writer.place[node.args[0]])
    size, stride, padding = module.kernel_size, module.stride, module.padding
    height, width = writer.shapes[node.args[0].name][2:]
    inside = isinstance(module, nn.MaxPool2d) or not module.count_include_pad
    same = stride == 1 and padding == size // 2 and size % 2 == 1 and inside
    halves = (size, stride, padding) == (2, 2, 0) and (module.ceil_mode or height % 2 == width % 2 == 0)
    if getattr(module, "dilation", 1) != 1 or not (same or halves):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    kind = "maxpool" if isinstance(module, nn.MaxPool2d) else "local_avgpool"
    return writer.emit(kind, size=size, stride=stride)


def _write_global_pool(writer: Writer, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> int:
    if module.output_size not in (1, (1, 1)):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    writer.reach(writer.place[node.args[0]])
    return writer.emit("avgpool")


def _write_upsample(writer: Writer, node: fx.Node, module: nn.Upsample) -> int:
    if module.mode != "nearest":
        raise ConfigError(f"darknet upsamples by repetition only, '{node.target}' by {module.mode}")
    writer.reach(writer.place[node.args[0]])
    return writer.emit("upsample", stride=int(module.scale_factor))


def _write_route(writer: Writer, node: fx.Node, module: None) -> int:
    sources = [writer.place[each] for each in node.args[0]]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != 1:
        raise ConfigError(f"darknet joins maps by channel; '{node.name}' joins by dimension {dim}")
    return writer.emit("route", layers=writer.back(*sources))


def _write_chunks(writer: Writer, node: fx.Node, module: None) -> int:
    """The parts of a map stand for nothing by themselves; `_write_slice` takes one of them."""
    return writer.place[node.args[0]]


def _write_slice(writer: Writer, node: fx.Node, module: None) -> int:
    """x[:, start:stop], where it is one of several equal parts; or one of x.chunk(n, dim=1)."""
    source, index = node.args
    if source.target == "chunk" and isinstance(index, int):
        dim = source.kwargs.get("dim", source.args[2] if len(source.args) > 2 else 0)
        whole, groups = writer.shapes[source.args[0].name][1], source.args[1]
        if dim == 1 and whole % groups == 0:
            place = writer.back(writer.place[source])
            return writer.emit("route", layers=place, groups=groups, group_id=index % groups)
    if not isinstance(index, tuple) or len(index) < 2 or index[0] != slice(None) or not isinstance(index[1], slice):
        raise ConfigError(f"darknet has no section for the selection '{node.name}'")
    channels = writer.shapes[source.name][1]
    start, stop, _ = index[1].indices(channels)
    width = stop - start
    if width < 1 or channels % width or start % width:
        raise ConfigError(
            f"'{node.name}' takes channels {start} to {stop} of {channels}; darknet cuts maps into equal parts only"
        )
    place = writer.place[source]
    return writer.emit("route", layers=writer.back(place), groups=channels // width, group_id=start // width)


def _write_product(writer: Writer, node: fx.Node, module: None) -> int:
    first, second = node.args
    gate, source = (first, second) if writer.place[first] == writer.last else (second, first)
    gate_shape, source_shape = writer.shapes[gate.name], writer.shapes[source.name]
    writer.reach(writer.place[gate])
    if gate_shape == source_shape:
        return writer.emit("sam", **{"from": writer.back(writer.place[source])})
    extra = {"scale_wh": 1} if gate_shape[1] == 1 else {}
    return writer.emit("scale_channels", **{"from": writer.back(writer.place[source])}, **extra)


_WRITERS: dict[Any, Callable[[Writer, fx.Node, Any], int]] = {
    ConvNormAct: _write_convolution,
    nn.Conv2d: _write_convolution,
    nn.Sigmoid: _write_activation,
    torch.sigmoid: _write_activation,
    Shortcut: _write_shortcut,
    operator.add: _write_shortcut,
    SPP: _write_pyramid,
    nn.MaxPool2d: _write_pool,
    nn.AvgPool2d: _write_pool,
    nn.AdaptiveAvgPool2d: _write_global_pool,
    nn.Upsample: _write_upsample,
    torch.cat: _write_route,
    operator.getitem: _write_slice,
    "chunk": _write_chunks,
    operator.mul: _write_product,
    torch.mul: _write_product,
}
