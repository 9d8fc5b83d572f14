"""DarknetGraph: the network of a darknet cfg as a backbone, its yolo layers' convolutions being the head's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.darknet.plan import IMAGE, Layer, plan_layers
from models.darknet.sections import Section
from utils.structures import Features


@dataclass(frozen=True, eq=False)
class Level:
    """One yolo layer.

    Args:
        yolo: its section.
        conv: index of the 1x1 convolution before it, whose output is the raw map.
        source: index of the layer that this convolution reads.
        channels: of that layer; `stride`: pixels per cell.
        anchors: width, height, width, ... in pixels, those of its mask.
    """

    yolo: Section
    conv: int
    source: int
    channels: int
    stride: int
    anchors: list[float]


def plan_levels(sections: Sequence[Section], layers: Sequence[Layer]) -> list[Level]:
    """The yolo layers of a network, finest first; those of one stride in the file's order.

    Raises:
        ValueError: a yolo layer without a plain 1x1 convolution before it, or with keys that contradict each other.
    """
    height, width = sections[0].integer("height"), sections[0].integer("width")
    levels = []
    for index, layer in enumerate(layers):
        if layer.section.kind != "yolo":
            continue
        before = layers[index - 1] if index else None
        anchors = _masked_anchors(layer.section)
        _check_predictor(layer.section, before, len(anchors) // 2)
        stride = height // layer.output.height
        if (layer.output.height * stride, layer.output.width * stride) != (height, width):
            raise layer.section.error(
                f"the map is {layer.output}, no whole fraction of the image, {height} x {width}; "
                "expected a width and height in [net] that the network's strides divide"
            )
        source = before.sources[0]
        channels = 3 if source == IMAGE else layers[source].output.channels
        levels.append(Level(layer.section, index - 1, source, channels, stride, anchors))
    _check_alike(levels)
    return sorted(levels, key=lambda level: level.stride)


def _masked_anchors(yolo: Section) -> list[float]:
    """Width, height, ... of the anchors in a yolo layer's mask."""
    values, count = yolo.numbers("anchors"), yolo.integer("num", 1)
    mask = yolo.integers("mask") if "mask" in yolo.options else list(range(count))
    if len(values) % 2 or len(values) // 2 < count or min(values) <= 0:
        raise yolo.error(f"anchors: expected num={count} pairs of width and height above 0, found {len(values)} values")
    if any(not 0 <= number < count for number in mask):
        raise yolo.error(f"mask: expected numbers of anchors, 0 to {count - 1}, found {mask}")
    return [value for number in mask for value in values[2 * number : 2 * number + 2]]


def _check_predictor(yolo: Section, before: Layer | None, anchors: int) -> None:
    """The layer before a yolo layer gives its raw map, by a plain 1x1 convolution of the right width."""
    if before is None or before.section.kind != "convolutional":
        found = "nothing" if before is None else before.section.where
        raise yolo.error(f"expected a [convolutional] layer right before it, found {found}")
    conv = before.section
    activation = "logistic" if yolo.text("new_coords", "0") == "1" else "linear"
    wanted = {"size": 1, "stride": 1, "groups": 1, "batch_normalize": 0, "padding": 0}
    for key, value in wanted.items():
        found = conv.integer(key, 0 if value == 0 else 1)
        if found != value:
            raise conv.error(f"{key}: expected {value} in the convolution before a yolo layer, found {found}")
    if conv.text("activation", "logistic") != activation:
        raise conv.error(
            f"activation: expected {activation} before a yolo layer with new_coords={yolo.text('new_coords', '0')}, "
            f"found {conv.text('activation', 'logistic')}"
        )
    classes = yolo.integer("classes", 20)
    if conv.integer("filters", 1) != anchors * (5 + classes):
        raise conv.error(
            f"filters: expected {anchors} anchors x (5 + {classes} classes) = {anchors * (5 + classes)} for "
            f"{yolo.where}, found {conv.integer('filters', 1)}"
        )


def _check_alike(levels: Sequence[Level]) -> None:
    """What the head has once for all levels must be the same in every yolo layer."""
    defaults = {"classes": 20, "new_coords": "0", "iou_loss": "mse", "nms_kind": "default", "beta_nms": "0.6"}
    for key, default in defaults.items():
        for level in levels:
            first, found = (each.yolo.options.get(key, default) for each in (levels[0], level))
            if str(first) != str(found):
                raise level.yolo.error(f"{key}={found}, but {levels[0].yolo.where} has {first}; expected the same")


class DarknetGraph(nn.Module):
    """The layers of a darknet cfg, in the file's order, up to the convolutions before the yolo layers.

    Those convolutions are the head's, as in our own models, so a cfg trains on any number of classes; the graph gives
    the maps that they read. A cfg without yolo layers is a classifier and gives one map, (B, classes, 1, 1): the logits
    that its softmax would see.

    Args:
        sections: the plain values of `Section.to_plain`, [net] first.
    Attributes:
        layers: one module a section after [net]; `layers[i]` is darknet's layer i.
        levels: its yolo layers, finest first.
        stride: both sides of an image are multiples of it.
    """

    def __init__(self, *, sections: list[dict[str, Any]]) -> None:
        super().__init__()
        self.sections = [Section.from_plain(values) for values in sections]
        plan = plan_layers(self.sections)
        self.levels = plan_levels(self.sections, plan)
        self.outputs = [level.source for level in self.levels] or [_logits(plan)]
        heads = {index for level in self.levels for index in (level.conv, level.conv + 1)}
        self.layers = nn.ModuleList(nn.Identity() if i in heads else layer.module for i, layer in enumerate(plan))
        self.sources = [layer.sources for layer in plan]
        for index, layer in enumerate(plan):
            if heads.intersection(layer.sources) and index not in heads:
                raise layer.section.error("expected a layer that is no yolo layer and not the convolution before one")
        self.steps = self._schedule(heads)
        channels = [plan[index].output.channels for index in self.outputs]
        image = self.sections[0].integer("height")
        self.features = Features(tuple(channels), tuple(image // plan[index].output.height for index in self.outputs))
        self.stride = max(image // layer.output.height for layer in _spatial(plan))

    def _schedule(self, heads: set[int]) -> list[tuple[int, list[int]]]:
        """The layers to run, each with those whose outputs nobody needs any more afterwards."""
        needed = set(self.outputs)
        for index in reversed(range(len(self.layers))):
            if index in needed:
                needed.update(self.sources[index])
        order = [index for index in range(len(self.layers)) if index in needed and index not in heads]
        last_use = {source: index for index in order for source in self.sources[index]}
        steps = []
        for index in order:
            done = [i for i in last_use if last_use[i] == index and i != IMAGE and i not in self.outputs]
            steps.append((index, done))
        return steps

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        found = {IMAGE: images}
        for index, done in self.steps:
            found[index] = self.layers[index](*(found[source] for source in self.sources[index]))
            for source in done:
                del found[source]
        return [found[index] for index in self.outputs]


def _spatial(plan: Sequence[Layer]) -> list[Layer]:
    """The layers whose outputs grow with the image: not a global pool, nor what comes of it alone."""
    grows = {IMAGE: True}
    for index, layer in enumerate(plan):
        grows[index] = layer.section.kind != "avgpool" and any(grows[source] for source in layer.sources)
    return [layer for index, layer in enumerate(plan) if grows[index]]


def _logits(plan: Sequence[Layer]) -> int:
    """Index of the last layer that is no softmax and no cost."""
    return max(i for i, layer in enumerate(plan) if layer.section.kind not in ("softmax", "cost"))
