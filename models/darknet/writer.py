"""Writer: the steps of a traced model as darknet sections."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from models.darknet.sections import Section
from models.darknet.trace import Shapes, calls_module, is_prediction, trace
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.layers import SPP, ConvNormAct, Maxout, Shortcut, WeightedShortcut
from utils.config import ConfigError

if TYPE_CHECKING:
    from models.darknet.writer import Writer


_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "linear",
    nn.LeakyReLU: "leaky",
    nn.ReLU: "relu",
    nn.Mish: "mish",
    nn.SiLU: "swish",
    nn.Sigmoid: "logistic",
}


def name_of(node: fx.Node, module: nn.Module | None = None) -> str:
    """A step for messages: a layer by its name and type, another one with the layer it is part of."""
    if module is not None:
        return f"'{node.target}' ({type(module).__name__})"
    what = node.target if isinstance(node.target, str) else node.target.__name__
    around = list(node.meta.get("nn_module_stack", {}).values())
    if not around:
        return f"'{what}'"
    path, kind = around[-1]
    return f"'{what}' in '{path}' ({kind.__name__})"


def _write_convolution(writer: Writer, node: fx.Node, module: ConvNormAct | nn.Conv2d) -> int:
    writer.reach(writer.place[node.args[0]])
    conv = module.conv if isinstance(module, ConvNormAct) else module
    size, stride, padding, dilation = (pair[0] for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    if not square or padding % dilation or (conv is module and conv.bias is None):
        raise ConfigError(f"darknet has no convolution like '{node.target}': {conv}")
    padding //= dilation  # darknet multiplies it by the dilation
    options: dict[str, Any] = {} if conv is module else {"batch_normalize": 1}
    options |= {"filters": conv.out_channels, "size": size, "stride": stride}
    if conv.groups > 1:
        options["groups"] = conv.groups
    if dilation > 1:
        options["dilation"] = dilation
    options |= {"pad": 1} if padding == size // 2 else {"padding": padding}
    activation = nn.Identity() if conv is module else module.act
    return writer.emit("convolutional", **options, activation=_activation(activation, str(node.target)))


def _activation(module: nn.Module, name: str) -> str:
    other_slope = isinstance(module, nn.LeakyReLU) and module.negative_slope != 0.1
    if type(module) not in _ACTIVATIONS or other_slope:
        raise ConfigError(f"darknet has no activation like that of '{name}': {module}")
    return _ACTIVATIONS[type(module)]


def _write_activation(writer: Writer, node: fx.Node, module: nn.Module | None) -> int:
    """An activation by itself joins the linear convolution before it."""
    index = writer.place[node.args[0]]
    section = writer.sections[index] if index == writer.last >= 0 else None
    if section is None or section.options.get("activation") != "linear" or len(node.args[0].users) > 1:
        raise ConfigError(f"darknet has no section for an activation by itself: {name_of(node, module)}")
    section.options["activation"] = "logistic" if module is None else _activation(module, node.name)
    return index


def _write_shortcut(writer: Writer, node: fx.Node, module: Shortcut | None) -> int:
    shapes = [writer.shapes[each.name] if isinstance(each, fx.Node) else None for each in node.args[:2]]
    if module is None and shapes[0] != shapes[1]:
        raise ConfigError(f"darknet adds maps of one size only, unlike {name_of(node)}")
    current, source = (writer.place[each] for each in node.args[:2])
    if module is None and current != writer.last and source == writer.last:
        current, source = source, current
    writer.reach(current)
    activation = "linear" if module is None else _activation(module.act, str(node.target))
    return writer.emit("shortcut", **{"from": writer.back(source)}, activation=activation)


def _write_weighted_shortcut(writer: Writer, node: fx.Node, module: WeightedShortcut) -> int:
    current, *sources = (writer.place[each] for each in node.args)
    writer.reach(current)
    weights: dict[str, Any] = {}
    if module.weights is not None:
        kind = "per_feature" if module.weights.shape[1] == 1 else "per_channel"
        weights = {"weights_type": kind, "weights_normalization": module.normalization}
    activation = _activation(module.act, str(node.target))
    return writer.emit("shortcut", **{"from": writer.back(*sources)}, **weights, activation=activation)


def _write_maxout(writer: Writer, node: fx.Node, module: Maxout) -> int:
    writer.reach(writer.place[node.args[0]])
    return writer.emit("maxpool", maxpool_depth=1, out_channels=module.out_channels, stride=1)


def _write_pyramid(writer: Writer, node: fx.Node, module: SPP) -> int:
    source = writer.place[node.args[0]]
    pooled = []
    for kernel in module.kernels:
        writer.reach(source)
        pooled.append(writer.emit("maxpool", stride=1, size=kernel))
    return writer.emit("route", layers=writer.back(*reversed(pooled), source))


def _write_padding(writer: Writer, node: fx.Node, module: nn.ConstantPad2d) -> int:
    """One column at the right and one row below: what a max pool of size 2 and stride 1 has in darknet."""
    pools = [writer.model.get_submodule(user.target) for user in node.users if calls_module(user)]
    fit = all(isinstance(pool, nn.MaxPool2d) and (pool.kernel_size, pool.stride) == (2, 1) for pool in pools)
    if tuple(module.padding) != (0, 1, 0, 1) or module.value != -math.inf or not fit or len(pools) < len(node.users):
        raise ConfigError(f"darknet has no section for {name_of(node, module)}: {module}")
    return writer.place[node.args[0]]


def _write_pool(writer: Writer, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> int:
    writer.reach(writer.place[node.args[0]])
    before = node.args[0]
    if calls_module(before) and isinstance(writer.model.get_submodule(before.target), nn.ConstantPad2d):
        return writer.emit("maxpool", size=2, stride=1)
    size, stride, padding = module.kernel_size, module.stride, module.padding
    average = isinstance(module, nn.AvgPool2d)
    kind = "local_avgpool" if average else "maxpool"
    even = not any(side % 2 for side in writer.shapes[before.name][2:])
    if (size, stride, padding) == (2, 2, 0) and (module.ceil_mode or even):
        return writer.emit(kind, size=2, stride=2)
    plain = getattr(module, "dilation", 1) == 1 and all(isinstance(each, int) for each in (size, stride, padding))
    if not plain or module.ceil_mode or (average and module.count_include_pad and padding):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    # Darknet counts the padding of both sides together, and by default there is one cell less than the window has.
    return writer.emit(kind, size=size, stride=stride, **({} if 2 * padding == size - 1 else {"padding": 2 * padding}))


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
        raise ConfigError(f"darknet has no section for the selection {name_of(node)}")
    channels = writer.shapes[source.name][1]
    start, stop, _ = index[1].indices(channels)
    width = stop - start
    if width < 1 or channels % width or start % width:
        raise ConfigError(
            f"'{node.name}' takes channels {start} to {stop} of {channels}; darknet cuts maps into equal parts only"
        )
    place = writer.place[source]
    return writer.emit("route", layers=writer.back(place), groups=channels // width, group_id=start // width)


def _write_flatten(writer: Writer, node: fx.Node, module: None) -> int:
    """(B, C, 1, 1) -> (B, C), the end of a classifier; the same numbers in a darknet file."""
    if writer.shapes[node.args[0].name][2:].numel() != 1:
        raise ConfigError(f"darknet has no section for '{node.name}', which makes one row of a whole map")
    return writer.place[node.args[0]]


def _write_product(writer: Writer, node: fx.Node, module: None) -> int:
    first, second = node.args
    gate, source = (first, second) if writer.place[first] == writer.last else (second, first)
    gate_shape, source_shape = writer.shapes[gate.name], writer.shapes[source.name]
    writer.reach(writer.place[gate])
    if gate_shape == source_shape:
        return writer.emit("sam", **{"from": writer.back(writer.place[source])})
    extra = {"scale_wh": 1} if gate_shape[1] == 1 else {}
    return writer.emit("scale_channels", **{"from": writer.back(writer.place[source])}, **extra)


WRITERS: dict[Any, Callable[[Writer, fx.Node, Any], int]] = {
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
        if key not in WRITERS:
            what = name_of(node, module)
            raise ConfigError(f"darknet has no section for {what}; this model cannot be written as a cfg")
        return WRITERS[key](self, node, module)

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
