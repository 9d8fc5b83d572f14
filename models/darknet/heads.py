"""Where a network ends: yolo or region layers with the convolutions before them, or a classifier's last layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.darknet.plan import DROPOUT, IMAGE, Layer
from models.darknet.sections import Section
from utils.text import shown

DETECTORS = ("yolo", "region")
"""Kinds of sections that make boxes of a map."""

END_ACTIVATIONS = ("linear", "leaky", "relu")
"""Of a classifier's last convolution."""

_PLAIN = {"size": 1, "stride": 1, "groups": 1, "batch_normalize": 0, "padding": 0}
"""Options of the 1x1 convolutions that become part of a head."""

REGION: dict[str, float] = {
    "softmax": 0,
    "rescore": 0,
    "bias_match": 0,
    "thresh": 0.5,
    "object_scale": 1,
    "noobject_scale": 1,
    "coord_scale": 1,
    "class_scale": 1,
}
"""What a [region] section says of all its levels, beside their classes, with darknet's defaults."""

_NMS = {"classes": "20", "nms_kind": "default", "beta_nms": "0.6"}
_ALIKE: dict[str, dict[str, object]] = {
    "yolo": {**_NMS, "new_coords": "0", "iou_loss": "mse"},
    "region": {**_NMS, **REGION},
}
"""Options that all levels have in common, with darknet's defaults."""


@dataclass(frozen=True, eq=False)
class Level:
    """One yolo or region layer.

    Args:
        section: its section.
        conv: index of the 1x1 convolution before it, whose output is the raw map.
        source: index of the layer that this convolution reads.
        channels: of that layer; `stride`: pixels per cell.
        anchors: width, height, width, ... in pixels: those of a yolo layer's mask, all of a region layer.
    """

    section: Section
    conv: int
    source: int
    channels: int
    stride: int
    anchors: list[float]


@dataclass(frozen=True)
class ClassifierEnd:
    """The layers of a cfg that become a classifier's head.

    Args:
        conv: index of the 1x1 convolution that gives a number for each class.
        pool: of the global pool; None where the convolution's map has a single cell.
        source: index of the layer that the first of the two reads.
        dropout: share dropped between them in training.
        activation: of the convolution.
    """

    conv: int
    pool: int | None
    source: int
    dropout: float
    activation: str

    @property
    def first(self) -> int:
        """Index of the first layer that belongs to the head."""
        return self.conv if self.pool is None else min(self.conv, self.pool)

    @property
    def order(self) -> Literal["first", "last"]:
        """Whether the pool comes before or after the convolution, as ClassifyHead names it."""
        return "first" if self.pool is not None and self.pool < self.conv else "last"


def plan_levels(sections: Sequence[Section], layers: Sequence[Layer]) -> list[Level]:
    """The yolo or region layers of a network, finest first; those of one stride in the file's order.

    Raises:
        ValueError: such a layer without a plain 1x1 convolution before it, or with keys that contradict each other.
    """
    height, width = sections[0].integer("height"), sections[0].integer("width")
    levels = []
    for index, layer in enumerate(layers):
        if layer.section.kind not in DETECTORS:
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
        if source == IMAGE:
            raise predictor.section.error("expected a layer before the head, found the image itself")
        if layer.section.kind == "region":  # whose anchors are in cells
            anchors = [value * stride for value in anchors]
        channels = layers[source].output.channels
        levels.append(Level(layer.section, index - 1, source, channels, stride, anchors))
    _check_alike(levels)
    return sorted(levels, key=lambda level: level.stride)


def plan_classifier(layers: Sequence[Layer]) -> ClassifierEnd | None:
    """The end of a classifier: [avgpool] and a plain 1x1 [convolutional] in either order, dropout between them or none.

    Without [avgpool] the convolution's map must have a single cell. None where a network ends otherwise.
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
            break
        if len(last) == 2:
            break
    return _classifier_end(layers, last.get("convolutional"), last.get("avgpool"), dropout)


def _classifier_end(
    layers: Sequence[Layer], conv: int | None, pool: int | None, dropout: float
) -> ClassifierEnd | None:
    """The end with this convolution and pool, if they are one; `dropout` is the share dropped before either."""
    if conv is None or (pool is None and layers[conv].output.size != (1, 1)):
        return None
    section = layers[conv].section
    activation = section.text("activation", "logistic")
    source = layers[conv if pool is None else min(conv, pool)].sources[0]
    if activation not in END_ACTIVATIONS or _mismatch(section, activation) or source == IMAGE:
        return None
    # Without a pool nothing lies between the two: a dropout before the convolution is the backbone's.
    return ClassifierEnd(conv, pool, source, 0.0 if pool is None else dropout, activation)


def last_value(layers: Sequence[Layer]) -> int:
    """Index of the last layer that is no softmax and no cost."""
    return max(i for i, layer in enumerate(layers) if layer.section.kind not in ("softmax", "cost"))


def _masked_anchors(yolo: Section) -> list[float]:
    """Width, height, ... of the anchors in a layer's mask, as written; a region layer has no mask."""
    values, count = yolo.numbers("anchors"), yolo.integer("num", 1)
    if count < 1 or len(values) % 2 or len(values) // 2 < count or min(values) <= 0:
        raise yolo.error(f"anchors: expected num={count} pairs of width and height above 0, found {len(values)} values")
    mask = yolo.integers("mask") if "mask" in yolo.options else list(range(count))
    if any(not 0 <= number < count for number in mask):
        raise yolo.error(f"mask: expected numbers of anchors, 0 to {count - 1}, found {shown(mask)}")
    return [value for number in mask for value in values[2 * number : 2 * number + 2]]


def _predictor(yolo: Section, before: Layer | None, anchors: int) -> Layer:
    """The layer before a yolo or region layer, which gives its raw map: a plain 1x1 convolution of the right width.

    Raises:
        ValueError: it is another one.
    """
    if before is None or before.section.kind != "convolutional":
        previous = "nothing" if before is None else before.section.where
        raise yolo.error(f"expected a [convolutional] layer right before it, found {previous}")
    conv = before.section
    coordinates = "0" if yolo.kind == "region" else yolo.text("new_coords", "0")
    activation = "logistic" if coordinates == "1" else "linear"
    wrong = _mismatch(conv, activation)
    if wrong:
        key, expected, value = wrong
        new_coords = f" with new_coords={coordinates}" if key == "activation" and yolo.kind == "yolo" else ""
        raise conv.error(
            f"{key}: expected {expected} in the convolution before a {yolo.kind} layer{new_coords}, found {value}"
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
    """Refuse layers that differ in an option that the head has once for all levels."""
    for level in levels:
        first, own = levels[0].section, level.section
        if first.kind != own.kind:
            raise own.error(f"expected all layers of one kind, but {first.where} is another one")
        for key, default in _ALIKE[own.kind].items():
            values = str(first.options.get(key, default)), str(own.options.get(key, default))
            if values[0] != values[1]:
                raise own.error(f"{key}={values[1]}, but {first.where} has {values[0]}; expected the same")


def _mismatch(conv: Section, activation: str) -> tuple[str, object, object] | None:
    """The first key of a convolution that does not fit `_PLAIN` and an activation: key, expected, written."""
    for key, expected in _PLAIN.items():
        value = conv.integer(key, 0 if expected == 0 else 1)
        if value != expected:
            return key, expected, value
    written = conv.text("activation", "logistic")
    return None if written == activation else ("activation", activation, written)
