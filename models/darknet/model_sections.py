"""A model -> the sections of its cfg file."""

from __future__ import annotations

import torch

from models.darknet.graph import DarknetGraph
from models.darknet.head_sections import Options, anchor_options
from models.darknet.sections import Section
from models.darknet.trace import in_file_order
from models.darknet.writer import Writer
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.heads.classify import ClassifyHead
from utils.choices import PADDED
from utils.config import ConfigError

DEFAULT_SIZE = (416, 416)


def write_sections(
    model: Detector, *, image_size: tuple[int, int] | None = None, resize: str | None = None
) -> list[Section]:
    """The sections of a detector or classifier, [net] first.

    Raises:
        ConfigError: a part of the model that no darknet section describes.
    """
    if not isinstance(model.head, (AnchorHead, ClassifyHead)):
        raise ConfigError(
            f"darknet has no section for a head of type {type(model.head).__name__}; only for anchor, region and "
            "classify heads"
        )
    if isinstance(model.backbone, DarknetGraph):
        return _rewrite(model.backbone, model.head, image_size, resize)
    height, width = image_size or DEFAULT_SIZE
    net: Options = {"batch": 1, "subdivisions": 1, "width": width, "height": height, "channels": 3}
    writer = Writer(model, (height, width))
    for node in in_file_order(writer.graph):
        writer.write(node)
    if isinstance(model.head, ClassifyHead):
        writer.emit("softmax", {"groups": 1})
    return [_net(Section("net", 0, net), None, resize), *writer.sections]


def count_stored(model: Detector, layers: int) -> int:
    """How many of a model's first `layers` darknet layers have numbers in a weights file.

    Raises:
        ConfigError: the model has fewer layers, or a part that no darknet section describes.
    """
    sections = write_sections(model)[1:]
    if not 1 <= layers <= len(sections):
        raise ConfigError(f".conv.{layers}: expected 1 to {len(sections)}, the layers of this model's cfg")
    return sum(
        section.kind == "convolutional"
        or (section.kind == "shortcut" and section.text("weights_type", "none") != "none")
        for section in sections[:layers]
    )


def _net(net: Section, image_size: tuple[int, int] | None, resize: str | None) -> Section:
    """[net] with another image size and resize, where given."""
    options = dict(net.options)
    if image_size is not None:
        options["height"], options["width"] = image_size
    if resize is not None and (resize in PADDED) != (net.text("letter_box", "0") == "1"):
        options["letter_box"] = int(resize in PADDED)
    return Section("net", net.line, options)


def _rewrite(
    graph: DarknetGraph, head: AnchorHead | ClassifyHead, image_size: tuple[int, int] | None, resize: str | None
) -> list[Section]:
    """The sections that a cfg had, with the head's current classes and anchors."""
    net, *layers = graph.sections
    changes = _classifier_changes(graph, head) if isinstance(head, ClassifyHead) else _detector_changes(graph, head)
    for index, updates in changes.items():
        section = layers[index]
        layers[index] = Section(section.kind, section.line, {**section.options, **updates})
    return [_net(net, image_size, resize), *layers]


def _classifier_changes(graph: DarknetGraph, head: ClassifyHead) -> dict[int, Options]:
    """Options to set, by the layer's index."""
    assert graph.classifier is not None  # else there is no such head
    return {graph.classifier.conv: {"filters": head.num_classes}}


def _detector_changes(graph: DarknetGraph, head: AnchorHead) -> dict[int, Options]:
    """Options to set, by the layer's index."""
    as_read = [torch.tensor(level.anchors).view(-1, 2) for level in graph.levels]
    moved = not all(torch.equal(old, new.cpu()) for old, new in zip(as_read, head.anchors, strict=True))
    anchors = anchor_options(head) if moved else [{}] * len(graph.levels)
    changes: dict[int, Options] = {}
    for level, count, options in zip(graph.levels, head.anchor_counts, anchors, strict=True):
        changes[level.conv] = {"filters": count * (5 + head.num_classes)}
        changes[level.conv + 1] = {"classes": head.num_classes, **options}
    return changes
