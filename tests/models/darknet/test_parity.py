"""The same raw maps as OpenCV's darknet reader, from the cfg's graph and from our own model file (random weights)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.build import build_model
from models.config import load_model_config
from models.darknet.weights import load_weights_
from models.detector import Detector
from tests.models.darknet.cfgs import NETWORKS
from tests.models.darknet.common import build_text, difference, opencv_maps, our_maps, randomise_, saved
from utils.config import ROOT

TOLERANCE = 1e-3
EXACT = 1e-5
"""With the 1e-6 that OpenCV adds to variances, where darknet adds 1e-5."""

STRIDED = {"resnet10", "resnet50", "resnext50"}
"""OpenCV cannot add maps of different size; test_graph.py has that rule."""

READABLE = [name for name in NETWORKS if name not in STRIDED]
OURS = [name for name in READABLE if (ROOT / "cfg" / f"{NETWORKS[name].yaml}.yaml").is_file()]

_DARKNET = ["backbone.channels=[16, 32, 64, 128, 256]", "backbone.stem_channels=8", "neck.channels=[32, 64, 128]"]
THIN = {
    "cspresnext50-panet-spp": [
        "backbone.channels=[64, 128, 256, 512]",
        "backbone.hidden_channels=[32, 64, 128, 256]",
        "backbone.stem_channels=16",
        "neck.channels=[32, 64, 128]",
    ],
    "cspresnet50-panet-spp": [
        "backbone.channels=[64, 128, 256, 512]",
        "backbone.hidden_channels=[16, 32, 64, 128]",
        "backbone.transition_channels=[32, 64, 128, 256]",
        "backbone.stem_channels=16",
        "neck.channels=[32, 64, 128]",
    ],
    "cspdarknet53-panet-spp": _DARKNET,
    "yolov4": _DARKNET,
}
"""Every width of a model file of ours divided by four, as in `Network.cfg(divide=4)`."""


def compare_graph(name: str, folder: Path, *, size: int, divide: int) -> None:
    """The cfg's graph and OpenCV on one image."""
    cfg = NETWORKS[name].cfg(size=size, divide=divide)
    model = build_text(cfg.text())
    randomise_(model)
    image = torch.rand(1, 3, size, size)
    weights = saved(model, folder)
    expected = opencv_maps(cfg, weights, image)
    weights.unlink()  # pytest keeps the folder, and some of these files are large
    assert min(np.abs(values).max() for values in expected) > 0.1, "maps of nothing prove nothing"
    for tolerance in (TOLERANCE, EXACT):
        for found, values in zip(our_maps(model, image), expected, strict=True):
            assert difference(found, values) < tolerance
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-6


def compare_ours(name: str, folder: Path, *, size: int, divide: int) -> None:
    """Our model file, the cfg's graph with the same weights file, and OpenCV."""
    network = NETWORKS[name]
    thin = THIN[network.yaml] if divide > 1 else []
    model = build_model(load_model_config(network.yaml, thin), 80)
    randomise_(model)
    weights = saved(model, folder)
    cfg = network.cfg(size=size, divide=divide)
    graph = build_text(cfg.text())
    load_weights_(graph, weights)
    image = torch.rand(1, 3, size, size)
    expected, from_cfg = opencv_maps(cfg, weights, image), our_maps(graph, image)
    weights.unlink()
    found = in_order_of(graph, model, image)
    for ours, again, values in zip(found, from_cfg, expected, strict=True):
        assert difference(ours, values) < TOLERANCE
        assert difference(ours, again) < 1e-5


def in_order_of(graph: Detector, model: Detector, image: torch.Tensor) -> list[np.ndarray]:
    """A model's maps, finest first, in the order of a cfg's file."""
    with torch.no_grad():
        maps = [raw.numpy() for raw in model.eval()(image)]
    levels = graph.backbone.levels
    return [maps[index] for index in sorted(range(len(maps)), key=lambda i: levels[i].conv)]


@pytest.mark.parametrize("name", READABLE)
def test_graphs_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_graph(name, tmp_path, size=64, divide=4)


@pytest.mark.parametrize("name", [name for name in OURS if NETWORKS[name].yaml in THIN])
def test_our_models_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_ours(name, tmp_path, size=64, divide=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", READABLE)
def test_whole_graphs_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_graph(name, tmp_path, size=128, divide=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_our_whole_models_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_ours(name, tmp_path, size=128, divide=1)
