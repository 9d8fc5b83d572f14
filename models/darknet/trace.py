"""A detector as darknet's list of layers: the order of its convolutions, and the sections that describe it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from models.darknet.graph import DarknetGraph
from models.darknet.sections import Section
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.layers import SPP, ConvNormAct, Shortcut
from utils.config import ConfigError

DEFAULT_SIZE = (416, 416)
_LEAVES = (ConvNormAct, Shortcut, SPP)
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "linear",
    nn.LeakyReLU: "leaky",
    nn.ReLU: "relu",
    nn.Mish: "mish",
    nn.SiLU: "swish",
    nn.Sigmoid: "logistic",
}


def file_convolutions(model: Detector) -> list[tuple[str, nn.Module]]:
    """Every convolution (ConvNormAct or Conv2d) of a model of ours, with its name, in the order of a darknet file.

    That is the order in which they run, and darknet writes a yolo layer, with the convolution before it, as soon as the
    map is there that it reads (spec 3.1 and 3.2).

    Raises:
        ConfigError: a model that darknet's files cannot hold.
    """
    graph = _trace(model)
    found = [(node.target, model.get_submodule(node.target)) for node in _in_file_order(graph) if _calls_module(node)]
    convolutions = [(name, module) for name, module in found if isinstance(module, (ConvNormAct, nn.Conv2d))]
    held = {id(tensor) for _, module in convolutions for tensor in module.parameters()}
    other = [name for name, tensor in model.named_parameters() if id(tensor) not in held]
    if other or len({name for name, _ in convolutions}) != len(convolutions):
        what = other[0] if other else "a convolution that is used twice"
        raise ConfigError(f"darknet's files cannot hold this model: they have no place for {what}")
    return convolutions


def write_sections(
    model: Detector, *, image_size: tuple[int, int] | None = None, resize: str | None = None
) -> list[Section]:
    """The sections of a detector, [net] first.

    Raises:
        ConfigError: a part of the model that no darknet section describes.
    """
    if not isinstance(model.head, AnchorHead):
        raise ConfigError(f"darknet has no section for a head of type {type(model.head).__name__}; only anchor heads")
    if isinstance(model.backbone, DarknetGraph):
        return _rewrite(model.backbone, model.head, image_size, resize)
    height, width = image_size or DEFAULT_SIZE
    net = {"batch": 1, "subdivisions": 1, "width": width, "height": height, "channels": 3}
    writer = _Writer(model, (height, width))
    for node in _in_file_order(writer.graph):
        writer.write(node)
    return [_net(Section("net", 0, net), None, resize), *writer.sections]


def _net(net: Section, image_size: tuple[int, int] | None, resize: str | None) -> Section:
    """[net] with another image size and way to resize, where they are given."""
    options = dict(net.options)
    if image_size is not None:
        options["height"], options["width"] = image_size
    if resize is not None and (resize == "letterbox") != (net.text("letter_box", "0") == "1"):
        options["letter_box"] = int(resize == "letterbox")
    return Section("net", net.line, options)


def _rewrite(
    graph: DarknetGraph, head: AnchorHead, image_size: tuple[int, int] | None, resize: str | None
) -> list[Section]:
    """A cfg's own sections, with the classes and anchors that the head has now."""
    net, *layers = graph.sections
    as_read = [torch.tensor(level.anchors).view(-1, 2) for level in graph.levels]
    moved = not all(torch.equal(old, new.cpu()) for old, new in zip(as_read, head.anchors, strict=True))
    anchors = anchor_options(head) if moved else [{}] * len(graph.levels)
    for level, count, changes in zip(graph.levels, head.anchor_counts, anchors, strict=True):
        for index, updates in (
            (level.conv, {"filters": count * (5 + head.num_classes)}),
            (level.conv + 1, {"classes": head.num_classes, **changes}),
        ):
            section = layers[index]
            layers[index] = Section(section.kind, section.line, {**section.options, **updates})
    return [_net(net, image_size, resize), *layers]


def anchor_options(head: AnchorHead) -> list[dict[str, Any]]:
    """mask, anchors and num of each level's yolo section; every level lists the anchors of all, each anchor once."""
    levels = [[tuple(pair) for pair in anchors.tolist()] for anchors in head.anchors]
    every = list(dict.fromkeys(pair for level in levels for pair in level))
    text = ",".join(f"{width:g},{height:g}" for width, height in every)
    masks = [",".join(str(every.index(pair)) for pair in level) for level in levels]
    return [{"mask": mask, "anchors": text, "num": len(every)} for mask in masks]


class _Tracer(fx.Tracer):
    """Stops at the layers that have a darknet section of their own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: Detector) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ConfigError(f"darknet's files cannot hold this model: its steps depend on the image ({error})") from None


def _calls_module(node: fx.Node) -> bool:
    return node.op == "call_module"


def _is_prediction(node: fx.Node) -> bool:
    """Whether this is one of the head's convolutions."""
    return _calls_module(node) and str(node.target).startswith("head.convs.")


def _in_file_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes in the order they run, each of the head's convolutions right after the node it reads."""
    for node in graph.nodes:
        if not _is_prediction(node):
            yield node
            yield from (user for user in node.users if _is_prediction(user))


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n.name] = value.shape
        return value


class _Writer:
    """Turns nodes into sections.

    Args:
        size: (height, width) of the image; shapes are taken at it.
    """

    def __init__(self, model: Detector, size: tuple[int, int]) -> None:
        twin = copy.deepcopy(model).to("meta").eval()
        self.graph = _trace(twin)
        shapes = _Shapes(fx.GraphModule(twin, self.graph))
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
        elif _is_prediction(node):
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
        module = self.model.get_submodule(node.target) if _calls_module(node) else None
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
        self.emit(
            "convolutional",
            **{"filters": filters, "size": 1, "stride": 1, "pad": 1, "activation": "logistic" if square else "linear"},
        )
        anchors = anchor_options(head)[level]
        extra = {"new_coords": 1} if square else {}
        self.place[node] = self.emit(
            "yolo",
            **{"mask": anchors["mask"], "anchors": anchors["anchors"], "classes": head.num_classes},
            **{"num": anchors["num"], "scale_x_y": f"{head.scale_xy[level]:g}", **extra, "iou_loss": head.box_loss},
        )


def _write_convolution(writer: _Writer, node: fx.Node, module: ConvNormAct | nn.Conv2d) -> int:
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


def _write_activation(writer: _Writer, node: fx.Node, module: nn.Module | None) -> int:
    """An activation by itself joins the linear convolution before it."""
    index = writer.place[node.args[0]]
    section = writer.sections[index] if index == writer.last >= 0 else None
    if section is None or section.options.get("activation") != "linear" or len(node.args[0].users) > 1:
        raise ConfigError(f"darknet has no section for the activation '{node.name}' by itself")
    section.options["activation"] = "logistic" if module is None else _activation(module, node.name)
    return index


def _write_shortcut(writer: _Writer, node: fx.Node, module: Shortcut | None) -> int:
    current, source = (writer.place[each] for each in node.args[:2])
    if module is None and current != writer.last and source == writer.last:
        current, source = source, current
    writer.reach(current)
    activation = "linear" if module is None else _activation(module.act, str(node.target))
    return writer.emit("shortcut", **{"from": writer.back(source)}, activation=activation)


def _write_pyramid(writer: _Writer, node: fx.Node, module: SPP) -> int:
    source = writer.place[node.args[0]]
    pooled = []
    for kernel in module.kernels:
        writer.reach(source)
        pooled.append(writer.emit("maxpool", stride=1, size=kernel))
    return writer.emit("route", layers=writer.back(*reversed(pooled), source))


def _write_pool(writer: _Writer, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> int:
    writer.reach(writer.place[node.args[0]])
    size, stride, padding = module.kernel_size, module.stride, module.padding
    height, width = writer.shapes[node.args[0].name][2:]
    same = stride == 1 and padding == size // 2 and size % 2 == 1
    halves = (size, stride, padding) == (2, 2, 0) and (module.ceil_mode or height % 2 == width % 2 == 0)
    if not same and not halves:
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    kind = "maxpool" if isinstance(module, nn.MaxPool2d) else "local_avgpool"
    return writer.emit(kind, size=size, stride=stride)


def _write_global_pool(writer: _Writer, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> int:
    if module.output_size not in (1, (1, 1)):
        raise ConfigError(f"darknet has no pool like '{node.target}': {module}")
    writer.reach(writer.place[node.args[0]])
    return writer.emit("avgpool")


def _write_upsample(writer: _Writer, node: fx.Node, module: nn.Upsample) -> int:
    if module.mode != "nearest":
        raise ConfigError(f"darknet upsamples by repetition only, '{node.target}' by {module.mode}")
    writer.reach(writer.place[node.args[0]])
    return writer.emit("upsample", stride=int(module.scale_factor))


def _write_route(writer: _Writer, node: fx.Node, module: None) -> int:
    sources = [writer.place[each] for each in node.args[0]]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != 1:
        raise ConfigError(f"darknet joins maps by channel; '{node.name}' joins by dimension {dim}")
    return writer.emit("route", layers=writer.back(*sources))


def _write_slice(writer: _Writer, node: fx.Node, module: None) -> int:
    """x[:, start:stop], where it is one of several equal parts."""
    source, index = node.args
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


def _write_product(writer: _Writer, node: fx.Node, module: None) -> int:
    first, second = node.args
    gate, source = (first, second) if writer.place[first] == writer.last else (second, first)
    gate_shape, source_shape = writer.shapes[gate.name], writer.shapes[source.name]
    writer.reach(writer.place[gate])
    if gate_shape == source_shape:
        return writer.emit("sam", **{"from": writer.back(writer.place[source])})
    extra = {"scale_wh": 1} if gate_shape[1] == 1 else {}
    return writer.emit("scale_channels", **{"from": writer.back(writer.place[source])}, **extra)


_WRITERS: dict[Any, Callable[[_Writer, fx.Node, Any], int]] = {
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
    operator.mul: _write_product,
    torch.mul: _write_product,
}
