"""The beginning of a graph that takes a picture as it is, and the way back to its pixels (utils/boxes.Letterbox)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.export.detections import Rows, take_best
from models.export.graph import Nodes
from models.info import ModelInfo
from models.layouts import INPUT, PICTURE
from utils.boxes import FILL
from utils.choices import PADDED

if TYPE_CHECKING:
    import onnx  # else imported where it is needed


@dataclass(frozen=True)
class Placed:
    """Names of values in a graph: (4,) scale and pad for x1, y1, x2 and y2, and the picture's width and height so."""

    scale: str
    pad: str
    limit: str


def add_letterbox(graph: onnx.GraphProto, info: ModelInfo, *, rectangle: bool) -> Placed:
    """Put nodes before the input 'images' that make it of 'picture', (1, H, W, 3) uint8 RGB.

    Args:
        info: `image_size` is filled, or with `rectangle` is what the smallest rectangle of the stride fits into.
    """
    own = list(graph.node)
    del graph.node[:]
    nodes = Nodes(graph, PICTURE)
    shape = nodes("Shape", PICTURE)
    sides = nodes("Slice", shape, nodes.whole(1), nodes.whole(3), nodes.whole(0))
    source = nodes.cast(sides, "DOUBLE")
    if info.resize in PADDED:
        ratios = nodes("Div", nodes.constant(info.image_size, "float64"), source)
        scale = nodes("ReduceMin", ratios, axes=[0], keepdims=1)
        rounded = nodes("Floor" if info.resize == "corner" else "Round", nodes("Mul", source, scale))
        inner = nodes.cast(nodes("Max", rounded, nodes.constant(1.0, "float64")), "INT64")
        if rectangle:
            stride = nodes.whole(info.stride)
            more = nodes("Sub", nodes("Add", inner, stride), nodes.whole(1))
            target = nodes("Mul", nodes("Div", more, stride), stride)
        else:
            target = nodes.whole(*info.image_size)
    else:
        inner = target = nodes.whole(*info.image_size)
    resized = _resized(nodes, sides, inner)
    beside = nodes("Sub", target, inner)
    before = nodes("Mul", beside, nodes.whole(0)) if info.resize == "corner" else nodes("Div", beside, nodes.whole(2))
    after = nodes("Sub", beside, before)
    pads = nodes("Concat", nodes.whole(0, 0), before, nodes.whole(0, 0), after, axis=0)
    padded = nodes("Pad", resized, pads, nodes.constant(float(FILL)))
    if not rectangle:
        padded = nodes("Reshape", padded, nodes.whole(1, 3, *info.image_size))
    nodes("Div", padded, nodes.constant(255.0), name=INPUT)
    reverse = nodes.whole(1, 0, 1, 0)

    def four(value: str) -> str:
        return nodes("Gather", nodes.cast(value, "FLOAT"), reverse, axis=0)

    exact = nodes("Div", nodes.cast(inner, "DOUBLE"), source)
    placed = Placed(four(exact), four(before), four(source))
    graph.node.extend(own)
    return placed


def _resized(nodes: Nodes, source: str, inner: str) -> str:
    """(1, 3, h, w) float32: the picture in another size, bilinear as OpenCV does it for bytes, to the last bit.

    OpenCV's weights are multiples of 1/2048 and its sums whole numbers. The standard's Resize rounds every eighth value
    to its neighbour, which changes scores by up to 0.015.

    Args:
        source, inner: (2,) int64 height and width, before and after.
    """
    rows = _axis(nodes, *(nodes("Gather", value, nodes.whole(0), axis=0) for value in (source, inner)), edge=False)
    columns = _axis(nodes, *(nodes("Gather", value, nodes.whole(1), axis=0) for value in (source, inner)), edge=True)
    flat = nodes.whole(0, -1)  # lines of values; broadcasting over three colours is slow
    colours = nodes.whole(1, 3)
    columns = [
        (index, nodes("Reshape", nodes("Expand", nodes("Unsqueeze", each, nodes.whole(1)), colours), nodes.whole(-1)))
        for index, each in columns
    ]
    picture, parts = nodes("Squeeze", PICTURE, nodes.whole(0)), []
    for index, weight in rows:
        line = nodes("Gather", picture, index, axis=0)
        sides = [
            nodes("Mul", nodes.cast(nodes("Reshape", nodes("Gather", line, place, axis=1), flat), "INT32"), share)
            for place, share in columns
        ]
        summed = nodes("Div", nodes("Add", *sides), nodes.constant(16, "int32"))
        weighted = nodes("Mul", summed, nodes("Unsqueeze", weight, nodes.whole(1)))
        parts.append(nodes("Div", weighted, nodes.constant(65536, "int32")))
    total = nodes("Add", nodes("Add", *parts), nodes.constant(2, "int32"))
    pixels = nodes.cast(nodes("Div", total, nodes.constant(4, "int32")), "FLOAT")
    shape = nodes("Concat", nodes.whole(1), inner, nodes.whole(3), axis=0)
    return nodes("Transpose", nodes("Reshape", pixels, shape), perm=[0, 3, 1, 2])


def _axis(nodes: Nodes, before: str, after: str, *, edge: bool) -> list[tuple[str, str]]:
    """The two source lines of each new line, each (n,) int64, with its weight, (n,) int32 of 2048.

    Args:
        before, after: (1,) int64 lengths.
        edge: whether a place beyond the first or last line takes that line alone, as OpenCV has it for columns.
    """
    zero, one, two = (nodes.constant(value, "int64") for value in (0, 1, 2))
    lines = nodes("Range", zero, nodes("Squeeze", after), one)
    # Line d lies at ((2 d + 1) before - after) / (2 after); whole numbers, because some runtimes have no float64.
    whole = nodes("Mul", after, two)
    place = nodes("Sub", nodes("Mul", nodes("Add", nodes("Mul", lines, two), one), before), after)
    low = nodes("Sub", nodes("Div", nodes("Add", place, whole), whole), one)  # Div cuts; floor is wanted
    rest = nodes("Sub", place, nodes("Mul", low, whole))
    low = nodes.cast(low, "FLOAT")
    rest = nodes("Div", nodes.cast(rest, "FLOAT"), nodes.cast(whole, "FLOAT"))
    share = nodes("Sub", nodes("Add", low, rest), low)  # rounded where OpenCV rounds it
    first, last = nodes.constant(0.0), nodes("Sub", nodes.cast(before, "FLOAT"), nodes.constant(1.0))
    if edge:
        beyond = nodes("Or", nodes("Less", low, first), nodes("GreaterOrEqual", low, last))
        share = nodes("Where", beyond, first, share)
    pairs = []
    for index, weight in (
        (low, nodes("Sub", nodes.constant(1.0), share)),
        (nodes("Add", low, nodes.constant(1.0)), share),
    ):
        index = nodes.cast(nodes("Min", nodes("Max", index, first), last), "INT64")
        weight = nodes.cast(nodes("Round", nodes("Mul", weight, nodes.constant(2048.0))), "INT32")
        pairs.append((index, weight))
    return pairs


def to_picture(graph: onnx.GraphProto, boxes: str, placed: Placed, *, name: str | None = None) -> str:
    """Boxes (..., 4) of the network input in pixels of the picture, not yet cut to it."""
    nodes = Nodes(graph, name or f"{boxes}.{PICTURE}")
    return nodes("Div", nodes("Sub", boxes, placed.pad), placed.scale, name=name)


def cut_to_picture(graph: onnx.GraphProto, rows: Rows, placed: Placed, count: int) -> Rows:
    """Detections in pixels of the picture, cut to it; what lies beside it is left out."""
    nodes = Nodes(graph, "cut")
    boxes = to_picture(graph, rows.boxes, placed)
    boxes = nodes("Min", nodes("Max", boxes, nodes.constant(0.0)), placed.limit)
    near, far = nodes.part(boxes, 0, 2, 2), nodes.part(boxes, 2, 4, 2)
    inside = nodes.cast(nodes("Greater", far, near), "FLOAT")
    inside = nodes("ReduceMin", inside, axes=[2], keepdims=0)
    return take_best(nodes, Rows(boxes, nodes("Mul", rows.scores, inside), rows.classes), count)
