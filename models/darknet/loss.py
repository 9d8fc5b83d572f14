"""The loss that darknet trained a network with, as keys of our loss of anchor heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.darknet.sections import Section

SQUARED_ERROR_GAIN = 0.75
"""Darknet's default for iou_normalizer, which weighs its squared error too."""


def trained_loss(model: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the recipe's `loss` with which weights of darknet go on as they were trained.

    Objectness is 1 for the best anchor of an object and for those above `iou_thresh`, and nobody's loss for boxes that
    overlap an object by more than `ignore_thresh`. A cfg says both; a YAML model with scale_xy 1 is taken for a YOLOv3
    (one anchor an object, squared error), another one for a YOLOv4 (docs/networks.md, Targets and losses).

    Args:
        model: plain values of a ModelConfig with an anchor head.
    """
    head, backbone = model["head"], model["backbone"]
    scale = head.get("scale_xy", 1.0)
    is_v3 = max(scale if isinstance(scale, list) else [scale]) == 1
    iou_thresh, ignore_thresh, gain = 1.0 if is_v3 else 0.213, 0.7, SQUARED_ERROR_GAIN
    sections = [Section.from_plain(values) for values in backbone.get("sections", [])]
    for yolo in [section for section in sections if section.kind == "yolo"][:1]:
        iou_thresh, ignore_thresh = yolo.number("iou_thresh", 1.0), yolo.number("ignore_thresh", 0.5)
        gain = yolo.number("iou_normalizer", SQUARED_ERROR_GAIN)
    loss = {
        "assigner": {"type": "anchor_iou", "iou_thresh": iou_thresh},
        "objectness_target": "one",
        "ignore_thresh": ignore_thresh,
    }
    if head.get("box_loss", "mse" if is_v3 else "ciou") == "mse":
        loss |= {"box": "mse", "box_gain": gain}
    return loss
