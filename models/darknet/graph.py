"""DarknetGraph: the network of a darknet cfg as a backbone, without the convolutions that belong to the head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.darknet.heads import last_value, plan_classifier, plan_levels
from models.darknet.layers import Grey
from models.darknet.plan import IMAGE, Layer, plan_layers
from models.darknet.sections import Section
from models.parts import Backbone
from utils.structures import Features


class DarknetGraph(Backbone):
    """The layers of a darknet cfg, in the file's order, up to the convolutions before the yolo or region layers.

    Those convolutions belong to the head, as in our own models, so a cfg can be trained on any number of classes; the
    graph returns their inputs. A cfg without such layers is a classifier: its last pool and convolution belong to the
    head, and the graph returns the input of the first of them. Otherwise it returns the last layer's output. A network
    for grey images (channels=1 in [net]) takes RGB all the same, and makes grey of it first.

    Args:
        sections: the plain values of `Section.to_plain`, [net] first.
    Attributes:
        layers: one module a section after [net]; `layers[i]` is darknet's layer i.
        levels: its yolo or region layers, finest first; `classifier`: how it ends without any, None for an end of
            another kind.
        stride: both sides of an image are multiples of it.
    """

    def __init__(self, *, sections: list[dict[str, Any]]) -> None:
        super().__init__()
        self.sections = [Section.from_plain(values) for values in sections]
        plan = plan_layers(self.sections)
        self.levels = plan_levels(self.sections, plan)
        self.classifier = None if self.levels else plan_classifier(plan)
        self.outputs = [level.source for level in self.levels] or [last_value(plan)]
        heads = {index for level in self.levels for index in (level.conv, level.conv + 1)}
        if self.classifier is not None:
            self.outputs = [self.classifier.source]
            heads = set(range(self.classifier.first, len(plan)))
        self.layers = nn.ModuleList(nn.Identity() if i in heads else layer.module for i, layer in enumerate(plan))
        self.grey = Grey() if self.sections[0].integer("channels", 3) == 1 else nn.Identity()
        self.sources = [layer.sources for layer in plan]
        for index, layer in enumerate(plan):
            if heads.intersection(layer.sources) and index not in heads:
                raise layer.section.error("it reads a layer that only the head may read: one at a network's end")
        self.steps = self._schedule(heads)
        channels = [plan[index].output.channels for index in self.outputs]
        self.features = Features(tuple(channels), tuple(_pixels(plan[index]) for index in self.outputs))
        stride = max(_pixels(layer) for layer in _spatial(plan))
        net = self.sections[0]
        # A classifier takes its own size, also where that is no multiple: 320 of one whose last map has 3 x 3 cells.
        sides = (net.integer("height"), net.integer("width")) if self.classifier is not None else ()
        self.stride = math.gcd(stride, *sides)

    def _schedule(self, heads: set[int]) -> list[tuple[int, list[int]]]:
        """The layers to run, each with the layers whose outputs are not needed afterwards."""
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
        values = {IMAGE: self.grey(images)}
        for index, done in self.steps:
            values[index] = self.layers[index](*(values[source] for source in self.sources[index]))
            for source in done:
                del values[source]
        return [values[index] for index in self.outputs]


def _pixels(layer: Layer) -> int:
    """Pixels of the image per cell of a layer's output, at least 1."""
    return max(math.ceil(side) for side in layer.stride)


def _spatial(plan: Sequence[Layer]) -> list[Layer]:
    """The layers whose outputs grow with the image: no global pool, and no layer that reads only such pools."""
    grows = {IMAGE: True}
    for index, layer in enumerate(plan):
        grows[index] = layer.section.kind != "avgpool" and any(grows[source] for source in layer.sources)
    return [layer for index, layer in enumerate(plan) if grows[index]]
