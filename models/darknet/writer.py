"""Writer: the steps of a traced model as darknet sections."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from models.darknet.sections import Section
from models.darknet.steps import WRITERS, name_of
from models.darknet.trace import Shapes, calls_module, is_prediction, trace
from models.detector import Detector
from models.heads.anchor import AnchorHead
from utils.config import ConfigError


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
