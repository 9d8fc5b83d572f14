"""The same raw maps as OpenCV's darknet reader, from the cfg's graph and from our own model file (random weights)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.benchmark.costs import classes_of
from models.build import build_model
from models.config import load_model_config
from models.darknet.cfg import cfg_text
from models.darknet.weights import load_weights_
from tests.models.darknet.cfgs import NETWORKS
from tests.models.darknet.common import (
    build_text,
    difference,
    in_file_order,
    opencv_maps,
    our_maps,
    quick,
    randomise_,
    saved,
)
from utils.config import ROOT, ConfigError

TOLERANCE = 1e-3
EXACT = 1e-5
"""With the 1e-6 that OpenCV adds to variances, where darknet adds 1e-5."""

STRIDED = {"resnet10", "resnet50", "resnet50-leaky", "resnext50"}
"""OpenCV cannot add maps of different size; test_graph.py has that rule."""

READABLE = [name for name in NETWORKS if name not in STRIDED]
OURS = [name for name in READABLE if NETWORKS[name].yaml]

QUICK = {
    "csresnext50-panet-spp",
    "csdarknet53-panet-spp",
    "yolov4-tiny",
    "yolov3-tiny-prn",
    "darknet",
    "csmobilenet-v2",
}
"""Of every kind one."""

_DARKNET = ["backbone.channels=[16, 32, 64, 128, 256]", "backbone.stem_channels=8"]
_RESNET = ["backbone.channels=[64, 128, 256, 512]", "backbone.stem_channels=16"]
_RESNEXT = [*_RESNET, "backbone.hidden_channels=[32, 64, 128, 256]"]
_RESNET_CSP = [
    *_RESNET,
    "backbone.hidden_channels=[16, 32, 64, 128]",
    "backbone.transition_channels=[32, 64, 128, 256]",
]
_RESNET_ELASTIC = [*_RESNET_CSP, "backbone.hidden_channels=[32, 64, 128, 256]"]
_MOBILENET = [
    "backbone.channels=[4, 6, 8, 16, 24, 40, 80]",
    "backbone.stem_channels=8",
    "backbone.head_channels=320",
]
_NECK = ["neck.channels=[32, 64, 128]"]
THIN = {
    "cspresnext50-panet-spp": [*_RESNEXT, *_NECK],
    "cspresnet50-panet-spp": [*_RESNET_CSP, *_NECK],
    "cspdarknet53-panet-spp": [*_DARKNET, *_NECK],
    "yolov4": [*_DARKNET, *_NECK],
    "yolov4-tiny": ["backbone.channels=[16, 32, 64]", "neck.channels=[64, 128]"],
    "yolov3": [*_DARKNET, *_NECK],
    "yolov3-spp": [*_DARKNET, *_NECK],
    "yolov3-tiny": ["backbone.channels=[4, 8, 16, 32, 64, 128, 256]", "neck.channels=[64, 128]"],
    "yolov3-tiny-prn": ["backbone.channels=[4, 8, 16, 32, 64, 128, 128]", "neck.channels=[32, 64]"],
    "cspresnext50-elastic-panet-spp": [*_RESNEXT, *_NECK],
    "cspresnet50-elastic-panet-spp": [*_RESNET_ELASTIC, *_NECK],
    "cspresnext50": _RESNEXT,
    "cspresnet50": _RESNET_CSP,
    "cspdarknet53": _DARKNET,
    "cspresnext50-omega": _RESNEXT,
    "cspdarknet53-omega": _DARKNET,
    "cspresnext50-elastic": _RESNEXT,
    "cspresnet50-elastic": _RESNET_ELASTIC,
    "cspdarknet53-elastic": _DARKNET,
    "darknet53": _DARKNET,
    "darknet-ref": ["backbone.channels=[4, 8, 16, 32, 64, 128, 256]"],
    "mobilenet-v2": _MOBILENET,
    "cspmobilenet-v2": _MOBILENET,
}
"""Every width of a model file of ours divided by four, as in `Network.cfg(divide=4)`."""


def compare_graph(name: str, folder: Path, *, size: int, divide: int) -> float:
    """The cfg's graph and OpenCV on one image; their largest difference."""
    cfg = NETWORKS[name].cfg(size=size, divide=divide)
    model = build_text(cfg.text())
    randomise_(model)
    image = torch.rand(1, 3, size, size)
    weights = saved(model, folder)
    expected = opencv_maps(cfg.text(), weights, image)
    weights.unlink()  # pytest keeps the folder, and some of these files are large
    assert min(np.abs(values).max() for values in expected) > 0.1, "maps of nothing prove nothing"
    largest = []
    for tolerance in (TOLERANCE, EXACT):
        found = our_maps(model, image)
        largest.append(max(difference(each, values) for each, values in zip(found, expected, strict=True)))
        assert largest[-1] < tolerance
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-6
    return largest[0]


def compare_ours(name: str, folder: Path, *, size: int, divide: int) -> float:
    """Our model file, the cfg's graph with the same weights file, and OpenCV; the largest difference to OpenCV."""
    network = NETWORKS[name]
    config = load_model_config(network.yaml, THIN[network.yaml] if divide > 1 else [])
    model = build_model(config, classes_of(config)).eval()
    randomise_(model)
    weights = saved(model, folder)
    cfg = network.cfg(size=size, divide=divide)
    graph = build_text(cfg.text())
    load_weights_(graph, weights)
    image = torch.rand(1, 3, size, size)
    expected, from_cfg = opencv_maps(cfg.text(), weights, image), our_maps(graph, image)
    weights.unlink()
    with torch.no_grad():
        found = in_file_order(graph, [raw.numpy() for raw in model(image)])
    for ours, again, values in zip(found, from_cfg, expected, strict=True):
        assert difference(ours, values) < TOLERANCE
        assert difference(ours, again) < 1e-5
    return max(difference(ours, values) for ours, values in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", quick(READABLE, {"csresnet50", "csdarknet53-omega", "yolov3-tiny-prn"}))
def test_graphs_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_graph(name, tmp_path, size=64, divide=4)


@pytest.mark.parametrize("name", quick(OURS, QUICK))
def test_our_models_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    compare_ours(name, tmp_path, size=64, divide=4)


BEYOND_OPENCV = ("local_avgpool", "dilation=", "maxpool_depth", "weights_type")
"""What OpenCV's reader does not know, or reads past."""

WRITTEN = sorted(path.stem for path in (ROOT / "cfg").glob("*.yaml") if path.stem not in {*STRIDED, "resnet50"})


@pytest.mark.parametrize("name", quick(WRITTEN, {"efficientnet-b0", "cspdensenetb-ref-prn"}))
def test_what_we_write_is_what_opencv_computes(name: str, tmp_path: Path) -> None:
    """The cfg that export.py writes for a model file of ours, whatever published cfgs there are."""
    model = build_model(load_model_config(name), 5).eval()
    randomise_(model)
    size = max(64, 2 * model.stride)
    try:
        text = cfg_text(model, image_size=(size, size))
    except ConfigError:
        pytest.skip("darknet cannot hold this model; test_writer.py has the messages")
    if any(word in text for word in BEYOND_OPENCV):
        pytest.skip("OpenCV cannot read this network; test_writer.py reads it again")
    image = torch.rand(1, 3, size, size)
    expected = opencv_maps(text, saved(model, tmp_path), image)
    with torch.no_grad():
        found = in_file_order(build_text(text), [raw.numpy() for raw in model(image)])
    largest = max(difference(ours, values) for ours, values in zip(found, expected, strict=True))
    print(f"{name}: {largest:.1e}")
    assert largest < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", READABLE)
def test_whole_graphs_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    print(f"{name}: {compare_graph(name, tmp_path, size=128, divide=1):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_our_whole_models_compute_what_opencv_does(name: str, tmp_path: Path) -> None:
    print(f"{name}: {compare_ours(name, tmp_path, size=128, divide=1):.1e}")
