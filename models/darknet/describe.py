"""The sections of a detector, for its cfg file."""

from __future__ import annotations

import torch

from models.darknet.graph import DarknetGraph
from models.darknet.sections import Section
from models.darknet.trace import in_file_order
from models.darknet.writer import Writer, anchor_options
from models.detector import Detector
from models.heads.anchor import AnchorHead
from utils.config import ConfigError

DEFAULT_SIZE = (416, 416)


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
    writer = Writer(model, (height, width))
    for node in in_file_order(writer.graph):
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
