"""Backbones: their maps, the plain twin and every CSP form of each type, squeeze-and-excitation, activations, mistakes.

What the whole networks take is in test_backbones_costs.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.backbones.darknet_ref import DarknetRef
from models.backbones.darknet_tiny import PartialTinyStage
from models.backbones.inverted_residual import PartialStage
from models.benchmark.costs import count_bflops
from models.build import BACKBONES
from models.csp import CrossStagePartial
from models.layers import SqueezeExcitation
from utils.config import ConfigError
from utils.schema import build
from utils.structures import Features

CSP = {"ratio": 0.5, "fusion": "both"}
SMALL: dict[str, dict[str, Any]] = {
    "darknet": {"type": "darknet", "depths": [1, 2, 1], "channels": [16, 32, 64], "stem_channels": 8, "stem_stride": 2},
    "darknet-elastic": {"type": "darknet", "depths": [1, 1, 2], "channels": [16, 32, 64], "elastic": True},
    "darknet_ref": {"type": "darknet_ref", "channels": [8, 16, 32, 64, 96], "pool_strides": [2, 2, 2, 1]},
    "darknet_tiny": {"type": "darknet_tiny", "channels": [16, 32, 64]},
    "resnet": {
        "type": "resnet",
        "depths": [1, 2, 1],
        "channels": [32, 64, 128],
        "hidden_channels": [8, 16, 32],
        "stem_channels": 16,
        "groups": 4,
    },
    "resnet-basic": {
        "type": "resnet",
        "block": "basic",
        "depths": [1, 2, 1],
        "channels": [16, 32, 64],
        "hidden_channels": [16, 32, 64],
        "stem_channels": 16,
    },
    "resnet-elastic": {
        "type": "resnet",
        "depths": [1, 2, 2],
        "channels": [32, 64, 128],
        "hidden_channels": [16, 32, 64],
        "stem_channels": 16,
        "groups": 4,
        "elastic": True,
    },
    "res2net": {"type": "res2net", "depths": [1, 2, 1], "channels": [32, 64, 128], "stem_channels": 8},
    "densenet": {"type": "densenet", "depths": [2, 3, 2], "growth": 8, "hidden_channels": 16, "stem_channels": 16},
    "densenet-elastic": {
        "type": "densenet",
        "depths": [2, 3, 2],
        "growth": 8,
        "hidden_channels": 16,
        "stem_channels": 16,
        "elastic": True,
    },
    "peleenet": {"type": "peleenet", "depths": [1, 2, 2], "hidden_channels": [8] * 3, "growth": 8, "stem_channels": 16},
    "peleenet-sparse": {
        "type": "peleenet",
        "depths": [2, 3, 4],
        "hidden_channels": [8] * 3,
        "growth": 8,
        "stem_channels": 16,
        "sparse": True,
    },
    "dense_ref": {
        "type": "dense_ref",
        "depths": [2, 1, 2],
        "growth": [16, 24, 32],
        "channels": [24, 32, 48],
        "transition_ratio": 0.25,
    },
    "dense_ref-two_way": {
        "type": "dense_ref",
        "depths": [2, 3, 2],
        "growth": [16, 24, 32],
        "channels": [24, 32, 48],
        "two_way": True,
        "bottleneck": 0.5,
        "transition_ratio": 0.25,
    },
    "mobilenet": {
        "type": "mobilenet",
        "depths": [1, 2, 1, 2],
        "channels": [8, 12, 16, 24],
        "strides": [1, 2, 1, 2],
        "stem_channels": 16,
        "head_channels": 64,
    },
}
"""Every type, and the keys that change its graph, at a fraction of its size."""


def make(spec: dict[str, Any], **changes: Any) -> nn.Module:
    return build(BACKBONES, {**spec, **changes}, where="backbone")


def on_meta(spec: dict[str, Any], **changes: Any) -> nn.Module:
    with torch.device("meta"):  # counting needs shapes only
        return make(spec, **changes)


def count_conv_weights(model: nn.Module) -> int:
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))


def count_file_floats(model: nn.Module) -> int:
    """Floats of a darknet weight file: parameters, and running mean and variance."""
    statistics = sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return sum(p.numel() for p in model.parameters()) + statistics


def shapes(features: Features, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
    pairs = zip(features.channels, features.strides, strict=True)
    return [(batch, channels, height // stride, width // stride) for channels, stride in pairs]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("csp", [None, CSP])
def test_no_images_give_no_maps(name: str, csp: dict[str, Any] | None) -> None:
    backbone = make(SMALL[name], csp=csp).eval()
    assert [m.shape for m in backbone(torch.zeros(0, 3, 64, 96))] == shapes(backbone.features, 0, 64, 96)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "csp",
    [
        None,
        {"ratio": 0.5, "fusion": "both", "split": "conv"},
        {"ratio": 0.25, "fusion": "both", "split": "slice"},
        {"ratio": 0.75, "fusion": "first", "split": "conv"},
        {"ratio": 0.5, "fusion": "first", "split": "slice"},
        {"ratio": 0.25, "fusion": "last", "split": "conv"},
        {"ratio": 0.75, "fusion": "last", "split": "slice"},
    ],
    ids=lambda csp: "-".join(map(str, csp.values())) if csp else "plain",
)
def test_csp_wraps_every_backbone_in_every_form(name: str, csp: dict[str, Any] | None) -> None:
    backbone = make(SMALL[name], csp=csp)
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [m.shape for m in maps] == shapes(backbone.features, 2, 64, 96)
    assert list(backbone.features.strides) == sorted(set(backbone.features.strides))
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def stages_of(backbone: nn.Module) -> list[nn.Module]:
    return list(backbone.convs if isinstance(backbone, DarknetRef) else backbone.stages)


def state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", SMALL)
def test_a_list_makes_each_stage_partial_or_plain_by_its_own_entry(name: str) -> None:
    count = len(stages_of(on_meta(SMALL[name])))
    skipped = name == "darknet_ref"  # its first convolution reads the image
    for csp in (None, CSP):
        listed = on_meta(SMALL[name], csp=[None if skipped and index == 0 else csp for index in range(count)])
        assert state_shapes(listed) == state_shapes(on_meta(SMALL[name], csp=csp))

    wrapper = (CrossStagePartial, PartialStage, PartialTinyStage)
    for odd in (0, 1):
        entries = [{"ratio": 0.25} if index % 2 == odd else None for index in range(count)]
        entries[0] = None if skipped else entries[0]
        backbone = make(SMALL[name], csp=entries)
        for entry, stage in zip(entries, stages_of(backbone), strict=True):
            assert any(isinstance(part, wrapper) for part in stage.modules()) == (entry is not None)
        maps = backbone(torch.randn(2, 3, 64, 96))
        assert [m.shape for m in maps] == shapes(backbone.features, 2, 64, 96)
        sum(m.square().mean() for m in maps).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(("name", "split"), list(zip(SMALL, ["conv", "slice"] * len(SMALL), strict=False)))
def test_larger_ratio_takes_less(name: str, split: str) -> None:
    def taken(ratio: float) -> float:
        return count_bflops(on_meta(SMALL[name], csp={"ratio": ratio, "split": split}), (64, 64))

    assert taken(0.75) < taken(0.5) < taken(0.25)


@pytest.mark.parametrize("name", SMALL)
def test_transitions_take_what_they_leave_out(name: str) -> None:
    """A stage of both transitions has one more than either of the others."""

    def transitions(fusion: str) -> int:
        names = [module_name for module_name, _ in on_meta(SMALL[name], csp={"fusion": fusion}).named_modules()]
        return sum("transition" in each and each.endswith(".conv") for each in names)

    assert transitions("both") == transitions("first") + transitions("last") > 0


@pytest.mark.parametrize("name", SMALL)
def test_squeeze_and_excitation_is_everywhere_or_nowhere(name: str) -> None:
    def excitations(**changes: Any) -> int:
        return sum(isinstance(module, SqueezeExcitation) for module in on_meta(SMALL[name], **changes).modules())

    assert excitations() == excitations(csp=CSP) == 0
    assert excitations(se=4) == excitations(csp=CSP, se=4) > 0
    backbone = make(SMALL[name], csp=CSP, se=4, activation="swish")
    maps = backbone(torch.randn(2, 3, 64, 64))
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(("name", "activation"), list(zip(SMALL, ["leaky", "relu", "mish", "swish"] * 4, strict=False)))
def test_activation_reaches_every_layer(name: str, activation: str) -> None:
    kinds = {"leaky": nn.LeakyReLU, "relu": nn.ReLU, "mish": nn.Mish, "swish": nn.SiLU}
    for csp in (None, CSP):
        found = {type(m) for m in on_meta(SMALL[name], csp=csp, se=4, activation=activation).modules()}
        assert found & set(kinds.values()) == {kinds[activation]}


@pytest.mark.parametrize("name", SMALL)
def test_levels_are_the_coarsest_maps_of_the_same_network(name: str) -> None:
    images, found = torch.rand(1, 3, 64, 64), {}
    most = len(on_meta(SMALL[name]).features.strides) + (name in ("darknet_ref", "darknet_tiny"))
    for levels in (1, most, None):
        torch.manual_seed(0)
        backbone = make(SMALL[name], csp=None, levels=levels).eval()
        maps = backbone(images)
        assert [m.shape for m in maps] == shapes(backbone.features, 1, 64, 64)
        assert len(maps) == (levels or 3)
        found[levels] = maps
    for maps in found.values():
        for one, two in zip(maps[::-1], found[most][::-1], strict=False):
            assert torch.equal(one, two)
    with pytest.raises(ConfigError, match=f"levels: expected 1 to {most}, the maps of strides .*, found {most + 1}"):
        on_meta(SMALL[name], levels=most + 1)


@pytest.mark.parametrize(
    ("name", "stride"), [("darknet-elastic", 16), ("resnet-elastic", 32), ("densenet-elastic", 16), ("darknet", 1)]
)
def test_backbones_say_what_sizes_they_take(name: str, stride: int) -> None:
    backbone = on_meta(SMALL[name]).eval()
    assert backbone.stride == stride
    assert len(backbone(torch.zeros(1, 3, 2 * stride + (stride == 1), 3 * stride + 32, device="meta"))) == 3


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("darknet", {"depths": [1, 2]}, "depths has 2, channels has 3"),
        ("darknet", {"csp": {"ratio": 2}}, "between 0 and 1"),
        ("darknet", {"csp": {"fusion": "early"}}, "one of both, last, first"),
        ("darknet", {"csp": {"gamma": 0.5}}, "csp.gamma: unknown key"),
        ("darknet", {"csp": [CSP, {"gamma": 0.5}, {"ratio": 2}]}, r"csp\[1\].gamma: unknown key.*\n.*csp\[2\]: ratio:"),
        ("darknet", {"csp": [CSP, "slice", None]}, r"csp\[1\]: expected a mapping with the keys ratio, fusion"),
        ("darknet", {"csp": [CSP, None]}, "csp: expected one entry for each of the 3 stages .*, found 2"),
        ("darknet", {"depths": [0, 2, 1], "csp": [CSP, CSP, None]}, "a stage of 0 blocks has nothing to bypass"),
        ("darknet_ref", {"csp": [CSP, CSP, CSP, CSP, CSP]}, "first convolution reads the image, expected null"),
        ("mobilenet", {"csp": [CSP, None, None, CSP]}, "each of the 3 stages"),
        ("mobilenet", {"csp": [CSP, None, None], "tap": "expansion"}, "all plain or all partial"),
        ("darknet", {"activation": "gelu"}, "activation: expected one of leaky"),
        ("darknet", {"channels": [16, 0, 64]}, "to 0 channels"),
        ("darknet", {"levels": 0}, "levels: expected 1 to 3, the maps of strides .4, 8, 16., found 0"),
        ("darknet", {"se": 0}, "se: expected a reduction of at least 1"),
        ("darknet_ref", {"pool_strides": [2, 2, 2]}, "expected 1 or 2 after each convolution but the last, 4 numbers"),
        ("darknet_ref", {"pool_strides": [2, 1, 1, 1]}, "at least two of them 2"),
        ("darknet_ref", {"pool_strides": [2, 2, 2, 2], "shortcut": True}, "shortcut: expected a last pool of stride 1"),
        ("darknet_tiny", {"channels": [16]}, "at least two stages"),
        ("darknet_tiny", {"stem_channels": [16]}, "the widths of two convolutions"),
        ("resnet", {"groups": 3}, "groups: expected a divisor of both 8 and 8"),
        ("resnet", {"depths": [0, 1, 1]}, "at least one block"),
        ("resnet", {"block": "wide"}, "block: expected one of bottleneck, basic"),
        ("res2net", {"channels": [30, 64, 128]}, r"channels \[30, 64, 128\]: expected multiples of 8"),
        ("res2net", {"scales": 1}, "at least 2 scales"),
        ("res2net", {"depths": [1, 1, 0]}, "at least 1 block a stage"),
        ("densenet", {"depths": [2, 0, 2]}, "at least one dense layer"),
        ("densenet", {"transition_channels": [16]}, "depths has 2, transition_channels has 1"),
        ("peleenet", {"growth": 7}, "even growth"),
        ("peleenet", {"depths": [1, 0, 1]}, "at least one dense layer"),
        ("dense_ref", {"transition_ratio": 0}, "expected shares of a width, above 0"),
        ("dense_ref", {"depths": [1, 0, 1]}, "at least one dense layer"),
        ("mobilenet", {"strides": [1, 2, 3, 2]}, r"strides\[2\]: expected a list, each entry one of 1, 2"),
        ("mobilenet", {"strides": [1, 1, 1, 2]}, "expected maps of three strides, found 2"),
        ("mobilenet", {"kernels": [3, 4, 3, 3]}, "odd kernels"),
        ("mobilenet", {"se_channels": [4, 4]}, "6 widths, one a block"),
        ("mobilenet", {"se": 4, "se_channels": [4] * 6}, "a reduction of at least 1, or 6 widths"),
    ],
)
def test_wrong_specs_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make({**SMALL[name], **changes})
