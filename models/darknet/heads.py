"""Where a network ends: yolo layers with the convolutions before them, or a classifier's pool and convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.darknet.plan import DROPOUT, IMAGE, Layer
from models.darknet.sections import Section
from utils.text import shown

_PLAIN = {"size": 1, "stride": 1, "groups": 1, "batch_normalize": 0, "padding": 0}
"""Options of the 1x1 convolutions that become part of a head."""


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


@dataclass(frozen=True)
class ClassifierEnd:
    """The layers of a cfg that become a classifier's head.

    Args:
        conv: index of the 1x1 convolution that gives a number for each class; `pool`: of the global pool.
        source: index of the layer that the first of the two reads.
        dropout: share dropped between them in training.
    """

    conv: int
    pool: int
    source: int
    dropout: float

    @property
    def order(self) -> Literal["first", "last"]:
        """Whether the pool comes before or after the convolution, as ClassifyHead names it."""
        return "first" if self.pool < self.conv else "last"


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
        anchors = _masked_anchors(layer.section)
        predictor = _predictor(layer.section, layers[index - 1] if index else None, len(anchors) // 2)
        stride = height // layer.output.height
        if (layer.output.height * stride, layer.output.width * stride) != (height, width):
            raise layer.section.error(
                f"the map is {layer.output}, no whole fraction of the image, {height} x {width}; "
                "expected a width and height in [net] that the network's strides divide, "
                f"here {' x '.join(map(str, layer.stride))}"
            )
        source = predictor.sources[0]
        channels = 3 if source == IMAGE else layers[source].output.channels
        levels.append(Level(layer.section, index - 1, source, channels, stride, anchors))
    _check_alike(levels)
    return sorted(levels, key=lambda level: level.stride)


def plan_classifier(layers: Sequence[Layer]) -> ClassifierEnd | None:
    """The end of a classifier: [avgpool] and a plain 1x1 [convolutional] in either order, dropout between them or none.

    None where a network ends otherwise.
    """
    last: dict[str, int] = {}
    dropout = 0.0
    for index in range(last_value(layers), -1, -1):
        section = layers[index].section
        if section.kind in ("avgpool", "convolutional") and section.kind not in last:
            last[section.kind] = index
        elif section.kind == "dropout" and last and section.text("dropblock", "0") == "0":
            dropout = section.number("probability", DROPOUT)
        else:
            return None
        if len(last) == 2:
            break
    if len(last) < 2 or _mismatch(layers[last["convolutional"]].section, "linear"):
        return None
    source = layers[min(last.values())].sources[0]
    return None if source == IMAGE else ClassifierEnd(last["convolutional"], last["avgpool"], source, dropout)


def last_value(layers: Sequence[Layer]) -> int:
    """Index of the last layer that is no softmax and no cost."""
    return max(i for i, layer in enumerate(layers) if layer.section.kind not in ("softmax", "cost"))


def _masked_anchors(yolo: Section) -> list[float]:
    """Width, height, ... of the anchors in a yolo layer's mask."""
    values, count = yolo.numbers("anchors"), yolo.integer("num", 1)
    if count < 1 or len(values) % 2 or len(values) // 2 < count or min(values) <= 0:
        raise yolo.error(f"anchors: expected num={count} pairs of width and height above 0, found {len(values)} values")
    mask = yolo.integers("mask") if "mask" in yolo.options else list(range(count))
    if any(not 0 <= number < count for number in mask):
        raise yolo.error(f"mask: expected numbers of anchors, 0 to {count - 1}, found {shown(mask)}")
    return [value for number in mask for value in values[2 * number : 2 * number + 2]]


def _predictor(yolo: Section, before: Layer | None, anchors: int) -> Layer:
    """The layer before a yolo layer, which gives its raw map: a plain 1x1 convolution of the right width.

    Raises:
        ValueError: it is another one.
    """
    if before is None or before.section.kind != "convolutional":
        previous = "nothing" if before is None else before.section.where
        raise yolo.error(f"expected a [convolutional] layer right before it, found {previous}")
    conv = before.section
    activation = "logistic" if yolo.text("new_coords", "0") == "1" else "linear"
    wrong = _mismatch(conv, activation)
    if wrong:
        key, expected, value = wrong
        new_coords = f" with new_coords={yolo.text('new_coords', '0')}" if key == "activation" else ""
        raise conv.error(
            f"{key}: expected {expected} in the convolution before a yolo layer{new_coords}, found {value}"
        )
    classes = yolo.integer("classes", 20)
    if classes < 1:
        raise yolo.error(f"classes: expected 1 or more, found {classes}")
    if conv.integer("filters", 1) != anchors * (5 + classes):
        raise conv.error(
            f"filters: expected {anchors} anchors x (5 + {classes} classes) = {anchors * (5 + classes)} for "
            f"{yolo.where}, found {conv.integer('filters', 1)}"
        )
    return before


def _check_alike(levels: Sequence[Level]) -> None:
    """Refuse yolo layers that differ in an option that the head has once for all levels."""
    defaults = {"classes": "20", "new_coords": "0", "iou_loss": "mse", "nms_kind": "default", "beta_nms": "0.6"}
    for key, default in defaults.items():
        for level in levels:
            first, own = (each.yolo.options.get(key, default) for each in (levels[0], level))
            if str(first) != str(own):
                raise level.yolo.error(f"{key}={own}, but {levels[0].yolo.where} has {first}; expected the same")


def _mismatch(conv: Section, activation: str) -> tuple[str, object, object] | None:
    """The first key of a convolution that does not fit `_PLAIN` and an activation: key, expected, written."""
    for key, expected in _PLAIN.items():
        value = conv.integer(key, 0 if expected == 0 else 1)
        if value != expected:
            return key, expected, value
    written = conv.text("activation", "logistic")
    return None if written == activation else ("activation", activation, written)
