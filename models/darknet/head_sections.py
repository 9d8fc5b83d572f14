"""The end of a detector as darknet sections: for each level a convolution, and what makes boxes of its map."""

from __future__ import annotations

import numpy as np

from models.heads.anchor import AnchorHead
from models.heads.region import RegionHead

Options = dict[str, str | int]
"""Keys and values of a section."""


def level_sections(head: AnchorHead, level: int) -> list[tuple[str, Options]]:
    """Kind and options of the two sections of one level: [convolutional], and [yolo] or [region]."""
    square = head.size == "square"
    filters = head.anchor_counts[level] * (5 + head.num_classes)
    activation = "logistic" if square else "linear"
    conv: Options = {"filters": filters, "size": 1, "stride": 1, "pad": 1, "activation": activation}
    options = {**anchor_options(head)[level], "classes": head.num_classes}
    if isinstance(head, RegionHead):
        return [("convolutional", conv), ("region", {**options, "coords": 4, **_region_options(head)})]
    options["scale_x_y"] = f"{head.scale_xy[level]:g}"
    if square:
        options["new_coords"] = 1
    return [("convolutional", conv), ("yolo", {**options, "iou_loss": head.box_loss})]


def anchor_options(head: AnchorHead) -> list[Options]:
    """mask, anchors and num of each level's section; every yolo level lists the anchors of all, each anchor once.

    A region layer lists its own, in cells.
    """
    if isinstance(head, RegionHead):
        in_cells = [anchors / stride for anchors, stride in zip(head.anchors, head.strides, strict=True)]
        texts = [",".join(str(np.float32(side)) for side in level.flatten().tolist()) for level in in_cells]
        return [{"anchors": text, "num": len(level)} for text, level in zip(texts, in_cells, strict=True)]
    levels = [[tuple(pair) for pair in anchors.tolist()] for anchors in head.anchors]
    every = list(dict.fromkeys(pair for level in levels for pair in level))
    text = ",".join(f"{width:g},{height:g}" for width, height in every)
    masks = [",".join(str(every.index(pair)) for pair in level) for level in levels]
    return [{"mask": mask, "anchors": text, "num": len(every)} for mask in masks]


def _region_options(head: RegionHead) -> Options:
    """The options of a region section that describe its loss and its classes."""
    flags = {"softmax": head.softmax, "rescore": head.rescore, "bias_match": head.bias_match}
    numbers = {"thresh": head.thresh, **head.scales}
    return {key: int(value) for key, value in flags.items()} | {key: f"{value:.9g}" for key, value in numbers.items()}
