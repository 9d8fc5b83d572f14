"""Released weights of YOLOX for the same networks here: names, channel orders and the range of the pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_STEM = "backbone.backbone.stem.conv.conv.weight"
_OBJECTNESS = "head.obj_preds."
_RENAMED = (
    (r"backbone\.backbone\.stem\.conv\.", "backbone.stem."),
    (r"backbone\.backbone\.dark5\.1\.conv1\.", "backbone.stages.3.1."),
    (r"backbone\.backbone\.dark5\.1\.conv2\.", "backbone.stages.3.3."),
    (r"backbone\.backbone\.dark5\.2\.", "backbone.stages.3.4."),
    (r"backbone\.backbone\.dark(\d)\.(\d)\.", lambda found: f"backbone.stages.{int(found[1]) - 2}.{found[2]}."),
    (r"backbone\.lateral_conv0\.", "neck.top_down.0.reduce."),
    (r"backbone\.C3_p4\.", "neck.top_down.0.stack.0."),
    (r"backbone\.reduce_conv1\.", "neck.top_down.1.reduce."),
    (r"backbone\.C3_p3\.", "neck.top_down.1.stack.0."),
    (r"backbone\.bu_conv2\.", "neck.bottom_up.0.down."),
    (r"backbone\.C3_n3\.", "neck.bottom_up.0.stack.0."),
    (r"backbone\.bu_conv1\.", "neck.bottom_up.1.down."),
    (r"backbone\.C3_n4\.", "neck.bottom_up.1.stack.0."),
    (r"head\.cls_convs\.(\d)\.(\d)\.([dp])conv\.", lambda found: _in_pairs("class", found)),
    (r"head\.reg_convs\.(\d)\.(\d)\.([dp])conv\.", lambda found: _in_pairs("box", found)),
    (r"head\.cls_convs\.", "head.class_branches."),
    (r"head\.reg_convs\.", "head.box_branches."),
    (r"\.m\.(\d+)\.conv1\.", r".blocks.\1.reduce."),
    (r"\.m\.(\d+)\.conv2\.", r".blocks.\1.expand."),
    (r"\.conv1\.(?=conv|bn)", ".part2."),
    (r"\.conv2\.(?=conv|bn)", ".part1."),
    (r"\.conv3\.(?=conv|bn)", ".transition2."),
    (r"\.dconv\.", ".0."),
    (r"\.pconv\.", ".1."),
    (r"\.bn\.", ".norm."),
)
"""Patterns of their names and what stands for them here, one after the other."""


def is_yolox(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a YOLOX model with its CSPDarknet."""
    return _STEM in weights and any(name.startswith(_OBJECTNESS) for name in weights)


def from_yolox(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of a YOLOX model under our names; the same function of RGB in [0, 1] as theirs of BGR in 0..255.

    Their stem sorts the pixels of each 2x2 square into channels before a 3x3 convolution, which is a 6x6 convolution;
    their pyramid pooling has the widest window last, and the branch of boxes ends in two convolutions, here in one.
    """
    rest = {name: value for name, value in weights.items() if not name.startswith("head.") or "_preds." not in name}
    renamed = {_renamed(name): value for name, value in rest.items()}
    renamed["backbone.stem.conv.weight"] = _stem(weights[_STEM])
    pooled = "backbone.stages.3.3.conv.weight"
    if pooled in renamed:
        renamed[pooled] = torch.cat(renamed[pooled].chunk(4, dim=1)[::-1], dim=1)
    return renamed | _predictions(weights, renamed)


def classes_of_yolox(weights: Mapping[str, Tensor]) -> int | None:
    """How many classes the weights of a YOLOX model are for; None where they are no such weights."""
    classes = weights.get("head.cls_preds.0.weight")
    return len(classes) if is_yolox(weights) and classes is not None and classes.ndim else None


def _renamed(name: str) -> str:
    for pattern, place in _RENAMED:
        name = re.sub(pattern, place, name)
    return name


def _in_pairs(branch: str, found: re.Match[str]) -> str:
    """The place of one half of a depthwise-separable convolution in a branch, where both follow each other."""
    return f"head.{branch}_branches.{found[1]}.{2 * int(found[2]) + (found[3] == 'p')}."


def _stem(weight: Tensor) -> Tensor:
    """(O, 12, 3, 3) over squares of BGR in 0..255 -> (O, 3, 6, 6) over RGB in [0, 1]."""
    by_place = weight.unflatten(1, (2, 2, 3))  # column in the square, row in the square, colour
    kernel = by_place.permute(0, 3, 4, 2, 5, 1)  # (O, colour, 3, row, 3, column)
    return kernel.flatten(4, 5).flatten(2, 3).flip(1) * 255


def _predictions(weights: Mapping[str, Tensor], renamed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The 1x1 convolutions that end the branches."""
    layers = [int(found[1]) for name in renamed if (found := re.match(r"head\.class_branches\.0\.(\d+)\.", name))]
    last = max(layers, default=-1) + 1
    ends: dict[str, Tensor] = {}
    for name, objectness in weights.items():
        if name.startswith(_OBJECTNESS):
            level, kind = name.removeprefix(_OBJECTNESS).split(".")
            boxes, classes = (weights.get(f"head.{each}_preds.{level}.{kind}") for each in ("reg", "cls"))
            if boxes is not None and boxes.shape[1:] == objectness.shape[1:]:
                ends[f"head.box_branches.{level}.{last}.{kind}"] = torch.cat((boxes, objectness))
            if classes is not None:
                ends[f"head.class_branches.{level}.{last}.{kind}"] = classes
    return ends
