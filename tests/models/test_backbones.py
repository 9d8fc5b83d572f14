"""Backbones against the authors' networks: counts of the spec's sections 2.1, 2.2 and 5.9, to the last parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.build import BACKBONES
from models.flops import count_bflops
from utils.config import ConfigError, build

CSP = {"ratio": 0.5, "fusion": "both"}
DARKNET = {"type": "darknet", "depths": [1, 2, 8, 8, 4], "channels": [64, 128, 256, 512, 1024]}
RESNET = {"type": "resnet", "channels": [256, 512, 1024, 2048], "hidden_channels": [64, 128, 256, 512]}
RESNEXT = {**RESNET, "hidden_channels": [128, 256, 512, 1024], "groups": 32}
PELEE = {"type": "peleenet", "depths": [3, 4, 8, 6], "hidden_channels": [16, 32, 64, 64]}
NETWORKS: dict[str, dict[str, Any]] = {
    "darknet53": DARKNET,
    "csdarknet53": {**DARKNET, "csp": CSP},
    "resnet50": {**RESNET, "depths": [3, 4, 6, 3]},
    "csresnet50": {**RESNET, "depths": [3, 3, 5, 2], "transition_channels": [128, 256, 512, 1024], "csp": CSP},
    "resnext50": {**RESNEXT, "depths": [3, 4, 6, 3]},
    "csresnext50": {**RESNEXT, "depths": [3, 3, 5, 2], "csp": CSP},
    "peleenet": PELEE,
    "csppeleenet": {**PELEE, "csp": {**CSP, "split": "slice"}},
}


class Classifier(nn.Module):
    """The ImageNet network of a backbone: global pool and 1x1 convolution, in either order."""

    def __init__(self, backbone: nn.Module, *, pool_first: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.convolution = nn.Conv2d(backbone.features.channels[-1], 1000, 1)
        self.pool_first = pool_first

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)[-1]
        return self.convolution(self.pool(x)) if self.pool_first else self.pool(self.convolution(x))


def make(spec: dict[str, Any]) -> nn.Module:
    return build(BACKBONES, spec, where="backbone")


def make_classifier(spec: dict[str, Any], *, pool_first: bool = True) -> Classifier:
    with torch.device("meta"):  # counting needs shapes only
        return Classifier(make(spec), pool_first=pool_first)


def count_conv_weights(model: nn.Module) -> int:
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))


def count_file_floats(model: nn.Module) -> int:
    """Floats of a darknet weight file: parameters, and running mean and variance."""
    statistics = sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return sum(p.numel() for p in model.parameters()) + statistics


@pytest.mark.parametrize("name", NETWORKS)
def test_no_images_give_no_maps(name: str) -> None:
    with torch.device("meta"):
        backbone = make(NETWORKS[name]).eval()
        maps = backbone(torch.zeros(0, 3, 64, 64))
    assert [m.shape[1:] for m in maps] == [(c, 64 // s, 64 // s) for c, s in zip(*features_of(backbone), strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_as_the_features_say(name: str) -> None:
    with torch.device("meta"):
        backbone = make(NETWORKS[name])
        maps = backbone(torch.zeros(2, 3, 96, 160))
    assert backbone.features.strides == (8, 16, 32)
    expected = [(2, c, 96 // s, 160 // s) for c, s in zip(*features_of(backbone), strict=True)]
    assert [m.shape for m in maps] == expected


def features_of(backbone: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return backbone.features.channels, backbone.features.strides


@pytest.mark.parametrize(
    ("name", "floats", "trained", "bflops"),  # spec 5.9
    [
        ("darknet53", 41645640, 41609928, {256: 18.576}),
        ("csdarknet53", 27677512, 27642184, {256: 13.071, 224: 10.008}),
        ("resnet50", 22825896, 22780456, {256: 9.749}),
        ("csresnet50", 21648040, 21607848, {256: 8.972, 224: 6.869}),
        ("resnext50", 22312872, 22252328, {256: 10.119}),
        ("csresnext50", 20614824, 20557480, {256: 7.933, 224: 6.075}),
    ],
)
def test_networks_are_the_authors(name: str, floats: int, trained: int, bflops: dict[int, float]) -> None:
    model = make_classifier(NETWORKS[name])
    assert count_file_floats(model) == floats
    assert sum(p.numel() for p in model.parameters()) == trained
    for size, expected in bflops.items():
        assert count_bflops(model, (size, size)) == pytest.approx(expected, abs=0.0006)


def test_resnet50_of_the_repository_classifies_before_the_pool() -> None:
    model = make_classifier(NETWORKS["resnet50"], pool_first=False)
    assert count_bflops(model, (256, 256)) == pytest.approx(10.007, abs=0.0006)  # spec 1.6 and 5.9


@pytest.mark.parametrize(
    ("csp", "weights", "bflops"),  # spec 2.1 and 2.2: read from PeleeNet's code; a fit to the published CSPPeleeNet
    [
        (None, 2.7915e6, 1.0166),
        ({"ratio": 0.5, "split": "slice"}, 2.843e6, 0.893),
        ({"ratio": 0.25, "split": "slice"}, 3.216e6, 1.013),
        ({"ratio": 0.75, "split": "slice"}, 2.514e6, 0.785),
    ],
)
def test_peleenet_and_its_ratios(csp: dict[str, Any] | None, weights: float, bflops: float) -> None:
    model = make_classifier({**PELEE, "csp": csp})
    assert count_conv_weights(model) == pytest.approx(weights, abs=600)
    assert count_bflops(model, (224, 224)) == pytest.approx(bflops, abs=0.0006)


def test_csppeleenet_backbone_alone() -> None:
    backbone = make_classifier(NETWORKS["csppeleenet"]).backbone
    assert count_file_floats(backbone) == 2163488  # spec 2.2
    for size, expected in ((416, 3.076), (320, 1.820), (512, 4.660)):
        assert count_bflops(backbone, (size, size)) == pytest.approx(expected, abs=0.001)
    assert backbone.features.channels == (256, 512, 704)


def test_resnet_keeps_the_quirks_of_the_files() -> None:
    backbone = make_classifier(NETWORKS["csresnet50"]).backbone
    partial = [stage[-1] for stage in backbone.stages]
    assert (partial[0].part1.conv.out_channels, partial[0].part2.conv.out_channels) == (128, 64)
    linear = [
        isinstance(stage.part1.act, nn.Identity) and isinstance(stage.part2.act, nn.Identity) for stage in partial
    ]
    assert linear == [False, True, True, False]
    for stage in partial:
        assert isinstance(stage.blocks[0].convs[2].act, nn.Identity)
        assert isinstance(stage.blocks[0].shortcut.act, nn.LeakyReLU)


def test_darknet_splits_its_first_stage_in_full_width() -> None:
    backbone = make_classifier(NETWORKS["csdarknet53"]).backbone
    widths = [(stage[1].part1.conv.out_channels, stage[1].part2.conv.out_channels) for stage in backbone.stages]
    assert widths == [(64, 64), (64, 64), (128, 128), (256, 256), (512, 512)]
    assert backbone.stages[0][1].blocks[0].reduce.conv.out_channels == 32


def test_activation_reaches_every_convolution() -> None:
    for name, spec in NETWORKS.items():
        with torch.device("meta"):
            backbone = make({**spec, "activation": "mish"})
        assert not [m for m in backbone.modules() if isinstance(m, nn.LeakyReLU)], name
        assert [m for m in backbone.modules() if isinstance(m, nn.Mish)], name


@pytest.mark.parametrize("fusion", ["both", "first", "last"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("split", ["conv", "slice"])
@pytest.mark.parametrize(
    "spec",
    [
        {"type": "darknet", "depths": [1, 2, 1], "channels": [16, 32, 64], "stem_channels": 8, "stem_stride": 2},
        {
            "type": "resnet",
            "depths": [1, 2, 1],
            "channels": [32, 64, 128],
            "hidden_channels": [8, 16, 32],
            "stem_channels": 16,
            "groups": 4,
        },
        {"type": "peleenet", "depths": [1, 2, 2], "hidden_channels": [8, 8, 8], "growth": 8, "stem_channels": 16},
    ],
    ids=["darknet", "resnet", "peleenet"],
)
def test_csp_wraps_every_backbone_in_every_form(spec: dict[str, Any], split: str, ratio: float, fusion: str) -> None:
    backbone = make({**spec, "csp": {"ratio": ratio, "fusion": fusion, "split": split}})
    maps = backbone(torch.randn(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(*features_of(backbone), strict=True)]
    assert [m.shape for m in maps] == expected
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**DARKNET, "depths": [1, 2]}, "depths has 2, channels has 5"),
        ({**DARKNET, "csp": {"ratio": 2}}, "between 0 and 1"),
        ({**DARKNET, "csp": {"fusion": "early"}}, "one of both, last, first"),
        ({**DARKNET, "csp": {"gamma": 0.5}}, "csp.gamma: unknown key"),
        ({**DARKNET, "activation": "gelu"}, "activation: expected one of leaky"),
        ({**DARKNET, "channels": [64, 128, 0, 512, 1024]}, "to 0 channels"),
        ({**RESNEXT, "depths": [1, 1, 1, 1], "groups": 3}, "divisible by groups"),
        ({**RESNET, "depths": [0, 1, 1, 1]}, "at least one block"),
        ({**PELEE, "growth": 7}, "even growth"),
    ],
)
def test_wrong_specs_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(spec)
