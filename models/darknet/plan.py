"""Sections -> layers: the module, the sources and the output's shape of each section, in the file's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from models.darknet.layers import Product, Route, SpaceToDepth, Upsample, average_pool, max_pool
from models.darknet.sections import Section
from models.dropblock import DropBlock
from models.layers import ConvNormAct, Maxout, Shortcut, WeightedShortcut

IMAGE = -1
"""The index of the network's input among the sources of a layer."""

DROPOUT = 0.2
"""Darknet's default for `probability`."""
MOST_NUMBERS = 2**31 - 1
"""In a network; the largest published one has some 250 million."""
MOST_SIDE = 65_536
"""Of an image, in pixels."""


@dataclass(frozen=True)
class Map:
    """The shape of a layer's output at the cfg's own image size."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


@dataclass(frozen=True, eq=False)
class Layer:
    """One section, ready to run.

    Args:
        sources: indices of the layers whose outputs it takes, `IMAGE` for the image.
        stride: (y, x), pixels of the image per cell of its output.
    """

    section: Section
    module: nn.Module
    sources: tuple[int, ...]
    output: Map
    stride: tuple[Fraction, Fraction]


def plan_layers(sections: Sequence[Section]) -> list[Layer]:
    """The layers of a network.

    Args:
        sections: [net] first.
    Raises:
        ValueError: layers that do not fit together, with the line.
    """
    if not sections or sections[0].kind != "net":
        raise ValueError("expected [net] as the first section")
    planner = _Planner(sections[0])
    for section in sections[1:]:
        if section.kind == "net":
            raise section.error("expected [net] once, at the top")
        planner.add(section)
    return planner.layers


class _Planner:
    """Plans section after section and keeps the shape of every output."""

    def __init__(self, net: Section) -> None:
        self.layers: list[Layer] = []
        self.numbers = 0
        self.image = Map(net.integer("channels", 3), net.integer("height"), net.integer("width"))
        if self.image.channels not in (1, 3):
            raise net.error(f"channels: expected 3 (RGB) or 1 (grey), found {self.image.channels}")
        if not 1 <= min(self.image.size) <= max(self.image.size) <= MOST_SIDE:
            wanted = f"expected a width and height above 0, and up to {MOST_SIDE:,}"
            raise net.error(f"{wanted}, found {self.image.width} x {self.image.height}")

    def add(self, section: Section) -> None:
        """Plan one more layer."""
        sources, module, output = _PLANNERS[section.kind](self, section)
        self.numbers += sum(tensor.numel() for tensor in module.parameters())
        if self.numbers > MOST_NUMBERS:
            raise section.error(f"{self.numbers:,} numbers in the network so far; expected at most {MOST_NUMBERS:,}")
        if min(output.channels, output.height, output.width) < 1:
            raise section.error(f"its output would be {output} (channels x height x width): the map is used up")
        if max(output.channels, output.height, output.width) > MOST_NUMBERS:
            raise section.error(f"its output would be {output} (channels x height x width), which no memory holds")
        self.layers.append(Layer(section, module, sources, output, self._stride(section, sources)))

    @property
    def last(self) -> int:
        """Index of the layer planned last."""
        return len(self.layers) - 1

    def shape(self, index: int) -> Map:
        """The shape of a layer's output, or of the image."""
        return self.image if index == IMAGE else self.layers[index].output

    def _stride(self, section: Section, sources: tuple[int, ...]) -> tuple[Fraction, Fraction]:
        """(y, x) of a layer's output; that of a product's is its source's."""
        index = sources[-1] if section.kind in ("sam", "scale_channels") else sources[0]
        y, x = (Fraction(1), Fraction(1)) if index == IMAGE else self.layers[index].stride
        if section.kind in ("convolutional", "maxpool", "local_avgpool", "reorg", "reorg3d"):
            steps = _strides(section, section.integer("stride", 1))
            return y * steps[0], x * steps[1]
        if section.kind == "upsample":
            factor = section.integer("stride", 2)
            return y / factor, x / factor
        return y, x

    def resolve(self, section: Section, key: str, reference: int) -> int:
        """The index of a layer given by an absolute number, or by a negative one counted back from this layer."""
        current = len(self.layers)
        index = reference if reference >= 0 else current + reference
        if not 0 <= index < current:
            raise section.error(
                f"{key}={reference} from layer {current} is layer {index}; expected an earlier one, 0 to {current - 1}"
            )
        return index


Plan = tuple[tuple[int, ...], nn.Module, Map]
"""Sources, module and output of a layer."""


def _convolutional(planner: _Planner, section: Section) -> Plan:
    source = planner.shape(planner.last)
    size, stride, dilation = (section.integer(key, 1) for key in ("size", "stride", "dilation"))
    strides = _strides(section, stride)
    filters, groups = section.integer("filters", 1), section.integer("groups", 1)
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
    dilation = 1 if size == 1 else dilation
    if min(size, dilation, groups, filters) < 1 or padding < 0:
        raise section.error("expected size, dilation, groups and filters above 0, and a padding from 0")
    if source.channels * filters * size**2 > MOST_NUMBERS:
        raise section.error(
            f"{filters} filters of {source.channels} x {size} x {size} numbers; expected at most {MOST_NUMBERS:,}"
        )
    for name, channels in (("filters", filters), ("input channels", source.channels)):
        if channels % groups:
            raise section.error(f"groups={groups} does not divide the {channels} {name}")
    normalize = bool(section.integer("batch_normalize", 0) or section.integer("cbn", 0))
    activation = section.text("activation", "logistic")
    module = ConvNormAct(
        source.channels,
        filters,
        size,
        stride=strides,
        padding=padding * dilation,
        dilation=dilation,
        groups=groups,
        normalize=normalize,
        activation=activation,
    )
    reach = dilation * (size - 1 - 2 * padding)
    height, width = ((side - reach - 1) // step + 1 for side, step in zip(source.size, strides, strict=True))
    return (planner.last,), module, Map(filters, height, width)


def _strides(section: Section, stride: int) -> tuple[int, int]:
    """(y, x)."""
    strides = section.integer("stride_y", stride), section.integer("stride_x", stride)
    if min(strides) < 1:
        raise section.error(f"stride: expected at least 1, found {min(strides)}")
    return strides


def _route(planner: _Planner, section: Section) -> Plan:
    sources = tuple(planner.resolve(section, "layers", number) for number in section.integers("layers"))
    groups, group_id = section.integer("groups", 1), section.integer("group_id", 0)
    maps = [planner.shape(index) for index in sources]
    if not 0 <= group_id < groups:
        raise section.error(f"group_id={group_id}: expected 0 to {groups - 1}, as groups={groups}")
    for index, source in zip(sources, maps, strict=True):
        if source.size != maps[0].size:
            raise section.error(
                f"maps of different size cannot be joined: layer {sources[0]} is {maps[0]}, layer {index} is {source}"
            )
        if source.channels % groups:
            raise section.error(f"groups={groups} does not divide the {source.channels} channels of layer {index}")
    channels = sum(source.channels // groups for source in maps)
    return sources, Route(groups=groups, group_id=group_id), Map(channels, *maps[0].size)


def _shortcut(planner: _Planner, section: Section) -> Plan:
    current = planner.shape(planner.last)
    others = tuple(planner.resolve(section, "from", number) for number in section.integers("from"))
    weights_type = section.text("weights_type", "none")
    activation = section.text("activation", "linear")
    output = Map(current.channels, *current.size)
    steps = {_sampling(section, planner.shape(index), current, index) for index in others}
    channels = [planner.shape(index).channels for index in others]
    if len(others) == 1 and weights_type == "none":
        module: nn.Module = Shortcut(current.channels, channels[0], stride=steps.pop(), activation=activation)
    elif steps == {1}:
        module = WeightedShortcut(
            current.channels,
            channels,
            weights_type=weights_type,
            normalization=section.text("weights_normalization", "none"),
            activation=activation,
        )
    else:
        raise section.error("sources of another size are supported for a single source without weights only")
    return (planner.last, *others), module, output


def _sampling(section: Section, source: Map, current: Map, index: int) -> int:
    """The stride at which a source must be sampled to have the current size."""
    step = source.height // current.height
    if step < 1 or source.size != (current.height * step, current.width * step):
        raise section.error(f"layer {index} is {source}, which cannot be added to {current}")
    return step


def _pool(planner: _Planner, section: Section) -> Plan:
    source = planner.shape(planner.last)
    stride = section.integer("stride", 1)
    strides, size = _strides(section, stride), section.integer("size", stride)
    if section.kind == "maxpool" and section.text("maxpool_depth", "0") == "1":
        channels = section.integer("out_channels", 1)
        if strides != (1, 1) or not 1 <= channels <= source.channels:
            raise section.error(f"maxpool_depth: expected stride=1 and out_channels from 1 to {source.channels}")
        return (planner.last,), Maxout(source.channels, channels), Map(channels, *source.size)
    padding = section.integer("padding", size - 1)
    if size < 1 or padding < 0:
        raise section.error(f"expected a size above 0 and a padding from 0, found {size} and {padding}")
    height, width = ((side + padding - size) // step + 1 for side, step in zip(source.size, strides, strict=True))
    try:
        module = (max_pool if section.kind == "maxpool" else average_pool)(size, strides, padding)
    except ValueError as error:
        raise section.error(str(error)) from None
    return (planner.last,), module, Map(source.channels, height, width)


def _upsample(planner: _Planner, section: Section) -> Plan:
    source, stride = planner.shape(planner.last), section.integer("stride", 2)
    if stride < 1:
        raise section.error(f"stride: expected at least 1, found {stride}")
    module = Upsample(stride, scale=section.number("scale", 1.0))
    return (planner.last,), module, Map(source.channels, source.height * stride, source.width * stride)


def _reorg(planner: _Planner, section: Section) -> Plan:
    """[reorg] and [reorg3d]."""
    source, stride, plain = planner.shape(planner.last), section.integer("stride", 1), section.kind == "reorg3d"
    if not 2 <= stride <= MOST_SIDE:
        raise section.error(
            f"stride: expected 2 or more, found {stride} (1 if the key is missing, with which it changes nothing); a "
            "[reorg] without stride belongs to another program, whose weights darknet does not read either"
        )
    if source.height % stride or source.width % stride or (source.channels % stride**2 and not plain):
        wanted = f"a height and width that {stride} divides"
        wanted += "" if plain else f" and a number of channels that {stride**2} divides"
        raise section.error(f"expected {wanted}, found {source}")
    output = Map(source.channels * stride**2, source.height // stride, source.width // stride)
    return (planner.last,), SpaceToDepth(stride, plain=plain), output


def _product(planner: _Planner, section: Section) -> Plan:
    """[sam] and [scale_channels]."""
    current = planner.shape(planner.last)
    index = planner.resolve(section, "from", section.integer("from"))
    source = planner.shape(index)
    expected = source
    if section.kind == "scale_channels":
        masks = section.text("scale_wh", "0") == "1"
        expected = Map(1, *source.size) if masks else Map(source.channels, 1, 1)
    if current != expected:
        raise section.error(f"layer {index} is {source}, so a map of {expected} is expected here, found {current}")
    module = Product(activation=section.text("activation", "linear"))
    return (planner.last, index), module, source


def _avgpool(planner: _Planner, section: Section) -> Plan:
    return (planner.last,), nn.AdaptiveAvgPool2d(1), Map(planner.shape(planner.last).channels, 1, 1)


def _dropout(planner: _Planner, section: Section) -> Plan:
    source = planner.shape(planner.last)
    probability = section.number("probability", DROPOUT)
    if not 0 <= probability < 1:
        raise section.error(f"probability: expected a share from 0 to below 1, found {probability}")
    module: nn.Module = nn.Dropout(probability)
    if section.text("dropblock", "0") == "1":
        share, size = section.number("dropblock_size_rel", 0.0), section.integer("dropblock_size_abs", 0)
        size = size or (round(share * source.width) if share else 7)
        module = DropBlock(probability=probability, size=max(min(size, *source.size), 1), rising=False)
    return (planner.last,), module, source


def _unchanged(planner: _Planner, section: Section) -> Plan:
    """[yolo] and [region] belong to the head; [softmax] and [cost] end a classifier, which returns logits here."""
    return (planner.last,), nn.Identity(), planner.shape(planner.last)


_PLANNERS: dict[str, Callable[[_Planner, Section], Plan]] = {
    "convolutional": _convolutional,
    "route": _route,
    "shortcut": _shortcut,
    "maxpool": _pool,
    "local_avgpool": _pool,
    "upsample": _upsample,
    "sam": _product,
    "scale_channels": _product,
    "avgpool": _avgpool,
    "dropout": _dropout,
    "softmax": _unchanged,
    "cost": _unchanged,
    "yolo": _unchanged,
    "region": _unchanged,
    "reorg": _reorg,
    "reorg3d": _reorg,
}
