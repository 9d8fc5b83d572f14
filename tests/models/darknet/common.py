"""What the darknet tests share: models from cfg texts, random weights of sane scale, OpenCV's raw maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.build import build_model
from models.config import ModelConfig
from models.darknet.cfg import declared_classes, model_values, parse_cfg
from models.darknet.graph import DarknetGraph
from models.darknet.heads import DETECTORS
from models.darknet.weights import save_weights, stored_layers
from models.detector import Detector
from utils.config import ConfigError

Model = Detector | DarknetGraph

TINY = """[net]
width=64
height = 32    ; the image
letter_box=1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
[conv]  # alias
filters=14
size=1
activation=linear

[yolo]
mask = 1,0
anchors = 10,20,  30,40
classes=2
num=2
scale_x_y=1.05
iou_loss=ciou
nms_kind=greedynms
"""


def quick(names: Iterable[str], chosen: set[str]) -> list:
    """Parameters of a test: all names, those that are not chosen marked slow."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def count_floats(model: Model) -> int:
    """Numbers in the model's darknet file, after the header."""
    return sum(layer.count for layer in stored_layers(model))


def build_text(text: str, *, num_classes: int | None = None) -> Model:
    """The detector or classifier of a cfg text; of a text without an end the graph alone."""
    sections = parse_cfg(text, where="test.cfg")
    if not {"yolo", "region", "softmax"} & {
        section.kind for section in sections
    }:  # some layers, to be looked at by themselves
        return DarknetGraph(sections=[section.to_plain() for section in sections])
    config = ModelConfig(**model_values(sections), name="test")
    return build_model(config, num_classes or declared_classes(config.backbone))


@torch.no_grad()
def randomise_(model: nn.Module, *, seed: int = 0) -> None:
    """Random weights that keep the size of the values through many layers."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.4, 1.0)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)


def opencv_maps(text: str, weights: Path, images: Tensor) -> list[np.ndarray]:
    """What OpenCV computes for the convolutions before the last layers in the file's order, or for the logits."""
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV has no darknet reader (OpenCV 5); the comparison needs OpenCV 4")
    net = cv2.dnn.readNetFromDarknet(np.frombuffer(text.encode(), np.uint8), np.fromfile(weights, np.uint8))
    net.setInput(np.ascontiguousarray(images.numpy()))
    kinds = [section.kind for section in parse_cfg(text, where="test.cfg")[1:]]
    yolos = [f"conv_{index - 1}" for index, kind in enumerate(kinds) if kind in DETECTORS]
    before = len(kinds) - 2  # of a classifier: the layer before the softmax
    return list(net.forward(yolos or [f"{'conv' if kinds[before] == 'convolutional' else 'avgpool'}_{before}"]))


def our_maps(model: Model, images: Tensor) -> list[np.ndarray]:
    """The raw maps in the file's order, or the logits."""
    model.eval()
    with torch.no_grad():
        maps = [raw.numpy() for raw in model(images)]
    return in_file_order(model, maps)


def in_file_order(model: Model, maps: list[np.ndarray]) -> list[np.ndarray]:
    """Maps, finest first, in the order of a cfg's file; a classifier has one."""
    graph = model if isinstance(model, DarknetGraph) else model.backbone
    order = sorted(range(len(maps)), key=lambda i: graph.levels[i].conv) if graph.levels else [0]
    return [maps[index] for index in order]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - expected.reshape(found.shape)).max() / np.abs(expected).max())


def saved(model: Model, folder: Path) -> Path:
    """The model's weights file."""
    save_weights(model, folder / "test.weights")
    return folder / "test.weights"


def wrong(text: str) -> str:
    """The message for a wrong cfg text."""
    with pytest.raises(ConfigError) as caught:
        parse_cfg(text, where="x.cfg")
    return str(caught.value)
