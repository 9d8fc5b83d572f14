"""The end of a graph that gives detections: threshold, non-maximum suppression, the best few, as `postprocess`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.export.graph import Nodes
from models.info import ModelInfo
from models.layouts import Final
from models.suppression import AGREE_OVERLAP, DECAY, LEAST_VOTE, STEPS, VOTE_OVERLAP
from utils.metrics.calibration import uncalibrated

if TYPE_CHECKING:
    import onnx  # else imported where it is needed

CANDIDATES = 1000
"""Best (box, class) pairs that overlaps are computed between where the standard's operator does not do it."""
_HUGE = 3e38


@dataclass(frozen=True)
class Rows:
    """Names of values in a graph: boxes (B, M, 4), scores (B, M), 0 where there is none, and classes (B, M) int64."""

    boxes: str
    scores: str
    classes: str


def add_suppression(graph: onnx.GraphProto, boxes: str, scores: str, final: Final, info: ModelInfo) -> Rows:
    """Append what `postprocess` does; the best `max_det` come first, then rows of zeros.

    Args:
        boxes, scores: names of (B, N, 4) xyxy and (B, N, C) values, without the temperature.
    """
    nodes = Nodes(graph, "suppression")
    final = replace(final, conf_thres=uncalibrated(final.conf_thres, info.temperature))
    finite = nodes.cast(nodes("Less", nodes("Abs", boxes), nodes.constant(_HUGE)), "FLOAT")
    finite = nodes.cast(nodes("ReduceMin", finite, axes=[2], keepdims=1), "BOOL")
    scores = nodes("Where", finite, scores, nodes.constant(0.0))
    if info.nms in ("default", "vote"):
        kept = _by_iou(nodes, boxes, scores, final)
        if info.nms == "default":
            return kept
        voting = replace(final, conf_thres=LEAST_VOTE)
        return _vote(nodes, kept, _candidates(nodes, boxes, scores, voting, max(CANDIDATES, final.max_det)), final)
    if info.nms == "none":
        return take_best(nodes, _candidates(nodes, boxes, scores, final, final.max_det), final.max_det)
    beta = info.beta_nms if info.nms == "diounms" else 0.6
    candidates = _candidates(nodes, boxes, scores, final, max(CANDIDATES, final.max_det))
    return take_best(nodes, _by_distance(nodes, candidates, final.iou_thres, beta), final.max_det)


def add_temperature(graph: onnx.GraphProto, rows: Rows, temperature: float) -> Rows:
    """Append what `utils.metrics.calibration.calibrated` does to the scores; rows of zeros stay."""
    if temperature == 1:
        return rows
    nodes = Nodes(graph, "temperature")
    zero = nodes.constant(0.0)
    found = nodes("Greater", rows.scores, zero)
    scores = nodes("Where", found, rows.scores, nodes.constant(0.5))
    against = nodes("Log", nodes("Div", nodes("Sub", nodes.constant(1.0), scores), scores))
    scores = nodes("Sigmoid", nodes("Neg", nodes("Div", against, nodes.constant(temperature))))
    return Rows(rows.boxes, nodes("Where", found, scores, zero), rows.classes)


def take_best(nodes: Nodes, rows: Rows, count: int) -> Rows:
    """The `count` rows with the highest scores, in their order; zeros where there are fewer."""
    pads = nodes.whole(0, 0, 0, count)
    scores = nodes("Pad", rows.scores, pads, nodes.constant(0.0))
    boxes = nodes("Pad", rows.boxes, nodes.whole(0, 0, 0, 0, count, 0), nodes.constant(0.0))
    classes = nodes("Pad", rows.classes, pads, nodes.constant(0, "int64"))
    scores, order = nodes.several("TopK", scores, nodes.whole(count), names=2, axis=1)
    order = nodes("Unsqueeze", order, nodes.whole(2))
    boxes, classes = (nodes("GatherND", values, order, batch_dims=1) for values in (boxes, classes))
    found = nodes("Greater", scores, nodes.constant(0.0))
    boxes = nodes("Where", nodes("Unsqueeze", found, nodes.whole(2)), boxes, nodes.constant(0.0))
    return Rows(boxes, scores, nodes("Where", found, classes, nodes.constant(0, "int64")))


def name_detections(graph: onnx.GraphProto, rows: Rows) -> None:
    """Give detections the names of the outputs, and count those of each image."""
    nodes = Nodes(graph, "named")
    for value, name in ((rows.boxes, "boxes"), (rows.scores, "scores"), (rows.classes, "classes")):
        nodes("Identity", value, name=name)
    found = nodes.cast(nodes("Greater", rows.scores, nodes.constant(0.0)), "INT64")
    nodes("ReduceSum", found, nodes.whole(1), name="count", keepdims=0)


def _by_iou(nodes: Nodes, boxes: str, scores: str, final: Final) -> Rows:
    """The standard's operator, then the best of all classes of each image."""
    by_class = nodes("Transpose", scores, perm=[0, 2, 1])
    limits = nodes.whole(final.max_det), nodes.constant([final.iou_thres]), nodes.constant([final.conf_thres])
    rows = nodes("NonMaxSuppression", boxes, by_class, *limits)  # (K, 3) image, class, box
    values = nodes("Concat", nodes("GatherND", by_class, rows), nodes.constant([0.0]), axis=0)
    rows = nodes("Concat", rows, nodes.constant([[0, 0, 0]], "int64"), axis=0)  # one more, so that there is any
    values, order = nodes.several("TopK", values, nodes.side(values, 0), names=2, axis=0)
    rows = nodes("Gather", rows, order, axis=0)
    image = nodes.part(rows, 0, 1, 1)  # (K, 1)
    batch = nodes.side(boxes, 0)
    # The place of each row among those of its image; what comes after max_det goes to one place that is cut off.
    images = nodes("Range", nodes.constant(0, "int64"), nodes("Squeeze", batch), nodes.constant(1, "int64"))
    own = nodes.cast(nodes("Equal", image, nodes("Unsqueeze", images, nodes.whole(0))), "FLOAT")  # (K, B)
    counted = nodes("Mul", nodes("CumSum", own, nodes.constant(0, "int64")), own)
    place = nodes("Sub", nodes("ReduceMax", counted, axes=[1], keepdims=1), nodes.constant(1.0))
    place = nodes.cast(nodes("Min", place, nodes.constant(float(final.max_det))), "INT64")
    where = nodes("Concat", image, place, axis=1)
    box = nodes("GatherND", boxes, nodes("Gather", rows, nodes.whole(0, 2), axis=1))
    packed = [box, nodes("Unsqueeze", values, nodes.whole(1)), nodes.cast(nodes.part(rows, 1, 2, 1), "FLOAT")]
    shape = nodes("Concat", batch, nodes.whole(final.max_det + 1, 6), axis=0)
    nothing = nodes("Expand", nodes.constant(0.0), shape)
    filled = nodes("ScatterND", nothing, where, nodes("Concat", *packed, axis=1))
    filled = nodes.part(filled, 0, final.max_det, 1)
    values = nodes("Squeeze", nodes.part(filled, 4, 5, 2), nodes.whole(2))
    classes = nodes.cast(nodes("Squeeze", nodes.part(filled, 5, 6, 2), nodes.whole(2)), "INT64")
    found = nodes("Unsqueeze", nodes("Greater", values, nodes.constant(0.0)), nodes.whole(2))
    return Rows(nodes("Where", found, nodes.part(filled, 0, 4, 2), nodes.constant(0.0)), values, classes)


def _candidates(nodes: Nodes, boxes: str, scores: str, final: Final, count: int) -> Rows:
    """The best (box, class) pairs above the threshold, at most `count` of an image."""
    limit = nodes.whole(count)
    # A pair among the best is of a box among the best by their highest scores: most of the scores are read but once.
    best = nodes("ReduceMax", scores, axes=[2], keepdims=0)
    _, boxes_first = nodes.several("TopK", best, nodes("Min", limit, nodes.side(boxes, 1)), names=2, axis=1)
    index = nodes("Unsqueeze", boxes_first, nodes.whole(2))
    scores, boxes = (nodes("GatherND", values, index, batch_dims=1) for values in (scores, boxes))
    pairs = nodes("Reshape", scores, nodes.whole(0, -1))
    values, order = nodes.several("TopK", pairs, nodes("Min", limit, nodes.side(pairs, 1)), names=2, axis=1)
    wide = nodes.side(scores, 2)
    row = nodes("Unsqueeze", nodes("Div", order, wide), nodes.whole(2))
    above = nodes("Greater", values, nodes.constant(final.conf_thres))
    values = nodes("Where", above, values, nodes.constant(0.0))
    # Cut to the image with the most: overlaps cost the square of their number.
    counts = nodes("ReduceSum", nodes.cast(above, "INT64"), nodes.whole(1), keepdims=0)
    most = nodes("Max", nodes("ReduceMax", counts, axes=[0], keepdims=1), nodes.whole(1))

    def cut(value: str) -> str:
        return nodes("Slice", value, nodes.whole(0), most, nodes.whole(1))

    chosen = cut(nodes("GatherND", boxes, row, batch_dims=1))
    return Rows(chosen, cut(values), cut(nodes("Mod", order, wide)))


def _by_distance(nodes: Nodes, rows: Rows, iou_thres: float, beta: float) -> Rows:
    """Greedy suppression by IoU less a term of the centres' distance: scores of what falls become 0."""
    overlap = _overlap(nodes, rows, rows, beta)  # (B, K, K)
    many = nodes.side(rows.scores, 1)
    # 1 where the row suppresses the column: same class, better score, overlap above the threshold.
    falls = nodes("And", nodes("Greater", overlap, nodes.constant(iou_thres)), _same_class(nodes, rows, rows))
    falls = nodes("Trilu", nodes.cast(falls, "FLOAT"), nodes.constant(1, "int64"), upper=1)
    start = nodes.cast(nodes("Greater", rows.scores, nodes.constant(0.0)), "FLOAT")
    kept = _until_settled(nodes, falls, start, many)
    return Rows(rows.boxes, nodes("Mul", rows.scores, kept), rows.classes)


def _until_settled(nodes: Nodes, falls: str, start: str, many: str) -> str:
    """What greedy suppression keeps, (B, K) of 0 and 1.

    Each round keeps those that nothing kept in the round before suppresses; after as many rounds as the longest chain
    has links nothing changes any more, and the result is the greedy one (Cluster NMS, Zheng et al., arXiv:2005.03572).
    """
    from onnx import TensorProto, helper

    body = helper.make_graph([], "round", [], [])
    inner = Nodes(body, "round")
    hits = inner("Squeeze", inner("MatMul", inner("Unsqueeze", "kept", inner.whole(1)), falls), inner.whole(1))
    free = inner.cast(inner("Less", hits, inner.constant(0.5)), "FLOAT")
    inner("Mul", free, start, name="kept.next")
    changed = inner("ReduceMax", inner("Abs", inner("Sub", "kept.next", "kept")), keepdims=0)
    inner("Greater", changed, inner.constant(0.5), name="again.next")
    flag, values = TensorProto.BOOL, TensorProto.FLOAT
    body.input.extend(
        [
            helper.make_tensor_value_info("round.number", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", flag, []),
            helper.make_tensor_value_info("kept", values, ["batch", "candidates"]),
        ]
    )
    body.output.extend(
        [
            helper.make_tensor_value_info("again.next", flag, []),
            helper.make_tensor_value_info("kept.next", values, ["batch", "candidates"]),
        ]
    )
    return nodes("Loop", nodes("Squeeze", many), nodes.constant(True, "bool"), start, body=body)


def _vote(nodes: Nodes, kept: Rows, voters: Rows, final: Final) -> Rows:
    """Each box moves to the mean of the candidates that overlap it; see `models.suppression.vote`."""
    zero, one = nodes.constant(0.0), nodes.constant(1.0)
    some = nodes("Unsqueeze", nodes("Greater", voters.scores, zero), nodes.whole(2))
    voters = replace(voters, boxes=nodes("Where", some, voters.boxes, zero))  # what is left out may be infinite
    same, weights = _same_class(nodes, kept, voters), nodes("Unsqueeze", voters.scores, nodes.whole(1))

    def shares(rows: Rows, least: float) -> tuple[str, str]:
        """(B, M, K) IoU, and the weight of each candidate that overlaps enough."""
        overlap = _overlap(nodes, rows, voters)
        counts = nodes("And", nodes("Greater", overlap, nodes.constant(least)), same)
        return overlap, nodes("Where", counts, weights, zero)

    overlap, place = shares(kept, VOTE_OVERLAP)
    place = nodes("Mul", place, nodes("Mul", nodes("Mul", overlap, overlap), overlap))
    total = nodes("ReduceSum", place, nodes.whole(2), keepdims=1)
    means = nodes("Div", nodes("MatMul", place, voters.boxes), nodes("Max", total, nodes.constant(1e-12)))
    moved = replace(kept, boxes=nodes("Where", nodes("Greater", total, zero), means, kept.boxes))

    overlap, opinions = shares(moved, AGREE_OVERLAP)
    total = nodes("ReduceSum", opinions, nodes.whole(2), keepdims=0)
    agreement = nodes("ReduceSum", nodes("Mul", opinions, overlap), nodes.whole(2), keepdims=0)
    agreement = nodes("Div", agreement, nodes("Max", total, nodes.constant(1e-12)))
    agreement = nodes("Where", nodes("Greater", total, zero), agreement, one)
    near = nodes("Mul", _overlap(nodes, moved, moved), nodes.cast(_same_class(nodes, moved, moved), "FLOAT"))
    near = nodes("Trilu", near, nodes.constant(1, "int64"), upper=1)
    near = nodes("ReduceMax", near, axes=[1], keepdims=0)
    decay = nodes("Exp", nodes("Div", nodes("Neg", nodes("Mul", near, near)), nodes.constant(DECAY)))
    steps = nodes.constant(float(STEPS))
    factor = nodes("Div", nodes("Round", nodes("Mul", nodes("Mul", agreement, decay), steps)), steps)
    scores = nodes("Mul", moved.scores, factor)
    scores = nodes("Where", nodes("Greater", scores, nodes.constant(final.conf_thres)), scores, zero)
    return take_best(nodes, replace(moved, scores=scores), final.max_det)


def _same_class(nodes: Nodes, rows: Rows, others: Rows) -> str:
    """(B, M, K) whether two are of one class."""
    return nodes(
        "Equal", nodes("Unsqueeze", rows.classes, nodes.whole(2)), nodes("Unsqueeze", others.classes, nodes.whole(1))
    )


def _overlap(nodes: Nodes, rows: Rows, others: Rows, beta: float | None = None) -> str:
    """(B, M, K) IoU, less the centres' term if `beta` is given, as in `models.suppression`."""
    mine, theirs = nodes("Unsqueeze", rows.boxes, nodes.whole(2)), nodes("Unsqueeze", others.boxes, nodes.whole(1))
    zero = nodes.constant(0.0)

    def corners(value: str) -> tuple[str, str]:
        return nodes.part(value, 0, 2, 3), nodes.part(value, 2, 4, 3)

    def product(value: str) -> str:
        return nodes("ReduceProd", value, axes=[3], keepdims=0)

    def ratio(value: str, by: str) -> str:
        above = nodes("Greater", by, zero)
        return nodes("Where", above, nodes("Div", value, nodes("Where", above, by, nodes.constant(1.0))), zero)

    (near, far), (other_near, other_far) = corners(mine), corners(theirs)
    inner = nodes("Sub", nodes("Min", far, other_far), nodes("Max", near, other_near))
    shared = product(nodes("Max", inner, zero))
    areas = nodes("Add", product(nodes("Sub", far, near)), product(nodes("Sub", other_far, other_near)))
    iou = ratio(shared, nodes("Sub", areas, shared))
    if beta is None:
        return iou

    def squared(value: str) -> str:
        return nodes("ReduceSumSquare", value, axes=[3], keepdims=0)

    outer = nodes("Sub", nodes("Max", far, other_far), nodes("Min", near, other_near))
    apart = nodes("Sub", nodes("Add", near, far), nodes("Add", other_near, other_far))
    distance = nodes("Mul", squared(apart), nodes.constant(0.25))
    term = nodes("Pow", ratio(distance, squared(outer)), nodes.constant(beta))
    return nodes("Sub", iou, term)
