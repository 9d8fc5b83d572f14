"""Necks: widths and strides, the darknet files' order of concatenation and addition, and the published costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.benchmark.costs import count_bflops
from models.build import NECKS, build_model
from models.config import load_model_config
from models.layers import SAM as SpatialAttention
from models.layers import ConvNormAct
from models.necks.fpn import FPN, AdditiveFPN
from models.necks.panet import PANet
from models.necks.prn import PRN
from models.necks.tiny import TinyFPN
from tests.models.test_backbones import count_conv_weights, count_file_floats
from utils.config import ConfigError
from utils.schema import build
from utils.structures import Features

TAPS = Features((24, 32, 48), (8, 16, 32))


def make_maps(batch: int = 2, *, size: int = 96) -> list[Tensor]:
    return [torch.randn(batch, c, size // s, size // s) for c, s in zip(TAPS.channels, TAPS.strides, strict=True)]


SPP, SAM = {"spp_kernels": [5, 9, 13]}, {"sam": "pointwise"}
KINDS: dict[str, dict[str, Any]] = {
    "panet": {"type": "panet", "channels": [8, 16, 32]},
    "panet-rfb": {"type": "panet", "channels": [8, 16, 32], "rfb": "plain"},
    "panet-rfbn-asff": {"type": "panet", "channels": [8, 16, 32], "rfb": "norm", "asff": True},
    "fpn": {"type": "fpn", "channels": [8, 16, 32]},
    "yolov3": {"type": "fpn", "channels": [8, 16, 32], "lateral": False},
    "additive-fpn": {"type": "additive_fpn", "channels": 16, "levels": 2},
    "tiny": {"type": "tiny_fpn", "channels": [16, 32]},
    "tiny-3l": {"type": "tiny_fpn", "channels": [8, 16, 32], "reduced": [8, 12, 16]},
    "prn": {"type": "prn", "channels": [8, 16]},
    "prn-3l": {"type": "prn", "channels": [8, 8, 16]},
    "gfm": {"type": "gfm", "channels": [8, 8, 16], "compressed": 10, "reduced": 16},
    "efm": {"type": "efm", "channels": [8, 8, 16], "same": [8, 12, 16]},
    "cem": {"type": "cem", "channels": [8, 16], "fused": 20, "sam": None},
    "bifpn": {"type": "bifpn", "channels": 8, "repeats": 2},
    "bifpn-dense": {"type": "bifpn", "channels": 8, "separable": False, "out_channels": [8, 16, 32]},
}
NO_OPTIONS = {"prn", "prn-3l"}
"""Kinds of necks without pyramid pooling and attention."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_images_give_no_maps(kind: str) -> None:
    neck = build(NECKS, KINDS[kind], where="neck", features=TAPS).eval()
    assert all(m.shape[0] == 0 for m in neck(make_maps(0)))


@pytest.mark.parametrize("options", [{}, SPP, SAM, {"sam": "cbam"}, {**SPP, **SAM}, {"activation": "swish"}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_necks_give_what_their_features_say(kind: str, options: dict[str, Any]) -> None:
    if kind in NO_OPTIONS and options.keys() & {"sam", "spp_kernels"}:
        options = {}
    neck = build(NECKS, {**KINDS[kind], **options}, where="neck", features=TAPS)
    levels = len(neck.features.strides)
    assert neck.features.strides == TAPS.strides[-levels:]
    maps = neck(make_maps())
    expected = [(2, c, 96 // s, 96 // s) for c, s in zip(neck.features.channels, neck.features.strides, strict=True)]
    assert [m.shape for m in maps] == expected
    sum(m.square().mean() for m in maps).backward()
    missing = [name for name, parameter in neck.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NO_OPTIONS])
def test_pooling_and_attention_are_options_of_every_neck(kind: str) -> None:
    def modules(options: dict[str, Any]) -> set[str]:
        neck = build(NECKS, {**KINDS[kind], **options}, where="neck", features=TAPS)
        return {type(module).__name__ for module in neck.modules()}

    assert not modules({}) & {"SPP", "SAM"}
    assert {"SPP", "SAM"} <= modules({**SPP, **SAM})


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_in_training(kind: str) -> None:
    """No batch normalisation over a single value, as long as the coarsest map has more than one cell."""
    neck = build(NECKS, KINDS[kind], where="neck", features=TAPS)
    assert all(m.isfinite().all() for m in neck(make_maps(1)))


def test_attention_stands_on_every_concatenation() -> None:
    neck = PANet(features=TAPS, channels=[8, 16, 32], sam="pointwise")
    widths = [module.gate.conv.out_channels for module in neck.modules() if isinstance(module, SpatialAttention)]
    assert widths == [32, 16, 32, 64]  # twice the level's width: down to 16 and 8, up to 16 and 32


def test_yolov3_joins_the_map_as_it_is_and_predicts_before_it_goes_on() -> None:
    """The order of yolov3.cfg: five convolutions, the last 3x3, then on to the finer level."""
    neck = FPN(features=TAPS, channels=[8, 16, 32], lateral=False, spp_kernels=[5, 9, 13]).eval()
    order: list[tuple[int, int, int]] = []
    for module in neck.modules():
        if isinstance(module, ConvNormAct):
            module.register_forward_hook(
                lambda m, _, __: order.append((m.conv.in_channels, m.conv.out_channels, m.conv.kernel_size[0]))
            )
    fine, middle, coarse = make_maps()
    maps = neck([fine, middle, coarse])
    top = [(48, 32, 1), (32, 64, 3), (64, 32, 1), (128, 32, 1), (32, 64, 3), (64, 32, 1), (32, 64, 3)]
    next_ = [(32, 16, 1), (48, 16, 1), (16, 32, 3), (32, 16, 1), (16, 32, 3), (32, 16, 1), (16, 32, 3)]
    last = [(16, 8, 1), (32, 8, 1), (8, 16, 3), (16, 8, 1), (8, 16, 3), (16, 8, 1), (8, 16, 3)]
    assert order == top + next_ + last

    x = neck.top(coarse)
    expected = [neck.outputs[2](x)]
    for step, tap, output in zip(neck.top_down, (middle, fine), (neck.outputs[1], neck.outputs[0]), strict=True):
        up = F.interpolate(step.reduce(x), scale_factor=2, mode="nearest")
        x = step.stack(torch.cat((up, tap), dim=1))
        expected.append(output(x))
    for found, wanted in zip(maps, expected[::-1], strict=True):
        torch.testing.assert_close(found, wanted)


def test_lateral_fpn_joins_as_panet_does() -> None:
    neck = FPN(features=TAPS, channels=[16, 32]).eval()
    _, middle, coarse = make_maps()
    x = neck.top(coarse)
    step = neck.top_down[0]
    up = F.interpolate(step.reduce(x), scale_factor=2, mode="nearest")
    wanted = neck.outputs[0](step.stack(torch.cat((step.lateral(middle), up), dim=1)))
    torch.testing.assert_close(neck([middle, coarse])[0], wanted)


def test_tiny_necks_go_on_from_the_right_convolution() -> None:
    """From the coarsest level's 1x1 convolution, from every finer level's 3x3 (yolov3-tiny_3l.cfg)."""
    neck = TinyFPN(features=TAPS, channels=[8, 16, 32], reduced=[6, 10, 12]).eval()
    fine, middle, coarse = make_maps()
    x = neck.top(coarse)
    expected = [neck.output(x)]
    for level, tap in zip(neck.finer, (middle, fine), strict=True):
        up = F.interpolate(level.reduce(x), scale_factor=2, mode="nearest")
        x = level.conv(torch.cat((up, tap), dim=1))
        expected.append(x)
    assert [level.reduce.conv.out_channels for level in neck.finer] == [10, 6]
    for found, wanted in zip(neck([fine, middle, coarse]), expected[::-1], strict=True):
        torch.testing.assert_close(found, wanted)


def test_additive_fpn_adds_what_comes_from_above() -> None:
    neck = AdditiveFPN(features=TAPS, channels=16, levels=3).eval()
    maps = make_maps()
    x, expected = neck.laterals[2](maps[2]), []
    for i in (2, 1, 0):
        if i < 2:
            x = neck.laterals[i](maps[i]) + F.interpolate(x, scale_factor=2, mode="nearest")
        expected.append(neck.outputs[i](x))
    for found, wanted in zip(neck(maps), expected[::-1], strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("kernels", [None, [], [5, 9, 13]])
@pytest.mark.parametrize("csp", [None, {"ratio": 0.5}, {"ratio": 0.25, "fusion": "first"}])
@pytest.mark.parametrize("outputs", [None, [], [4, 6, 10]])
def test_panet_gives_what_its_features_say(levels: int, kernels, csp, outputs) -> None:
    spec = {
        "type": "panet",
        "channels": [8, 16, 32][:levels],
        "spp_kernels": kernels,
        "csp": csp,
        "out_channels": outputs if outputs is None else outputs[:levels],
    }
    neck = build(NECKS, spec, where="neck", features=TAPS)
    maps = neck(make_maps())
    assert neck.features.strides == TAPS.strides[-levels:]
    assert [m.shape for m in maps] == [
        (2, c, 96 // s, 96 // s) for c, s in zip(neck.features.channels, neck.features.strides, strict=True)
    ]
    assert neck.features.channels == (
        (16, 32, 64)[:levels] if outputs is None else tuple(outputs or [8, 16, 32])[:levels]
    )
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_panet_concatenates_in_the_files_order() -> None:
    neck = PANet(features=TAPS, channels=[8, 16, 32], spp_kernels=[5, 9, 13]).eval()
    fine, middle, coarse = make_maps()
    x = coarse
    for layer in neck.top[:3]:
        x = layer(x)
    x = torch.cat([F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (13, 9, 5)] + [x], dim=1)
    for layer in neck.top[4:]:
        x = layer(x)
    tops = [x]
    for step, tap in zip(neck.top_down, (middle, fine), strict=True):
        up = F.interpolate(step.reduce(tops[-1]), scale_factor=2, mode="nearest")
        tops.append(step.stack(torch.cat((step.lateral(tap), up), dim=1)))
    p5, p4, p3 = tops
    n4 = neck.bottom_up[0].stack(torch.cat((neck.bottom_up[0].down(p3), p4), dim=1))
    n5 = neck.bottom_up[1].stack(torch.cat((neck.bottom_up[1].down(n4), p5), dim=1))
    expected = [output(m) for output, m in zip(neck.outputs, (p3, n4, n5), strict=True)]
    for found, wanted in zip(neck([fine, middle, coarse]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_panet_runs_its_convolutions_in_the_files_order() -> None:
    """Whoever reads a darknet weight file may follow the order of execution (docs/networks.md, PANet with SPP,
    layers 81 to 135).
    """
    neck = PANet(features=TAPS, channels=[8, 16, 32], spp_kernels=[5, 9, 13]).eval()
    order: list[tuple[int, int, int]] = []
    for module in neck.modules():
        if isinstance(module, ConvNormAct):
            module.register_forward_hook(
                lambda m, _, __: order.append((m.conv.out_channels, m.conv.kernel_size[0], m.conv.stride[0]))
            )
    neck(make_maps())
    top = [(32, 1, 1), (64, 3, 1), (32, 1, 1), (32, 1, 1), (64, 3, 1), (32, 1, 1)]
    middle = [(16, 1, 1), (32, 3, 1)] * 2 + [(16, 1, 1)]
    fine = [(8, 1, 1), (16, 3, 1)] * 2 + [(8, 1, 1)]
    coarse = [(32, 1, 1), (64, 3, 1)] * 2 + [(32, 1, 1)]
    down = [(16, 1, 1), (16, 1, 1), *middle, (8, 1, 1), (8, 1, 1), *fine]
    up = [(16, 3, 1), (16, 3, 2), *middle, (32, 3, 1), (32, 3, 2), *coarse, (64, 3, 1)]
    assert order == top + down + up


def test_prn_adds_leading_channels_as_the_file_does() -> None:
    """Layers 14 to 25 of yolov3-tiny-prn.cfg (docs/networks.md, PRN), and the third level."""
    neck = PRN(features=TAPS, channels=[8, 16, 32]).eval()
    fine, middle, coarse = make_maps()
    leaky = nn.LeakyReLU(0.1)
    reduced = neck.reduce(coarse)
    before = neck.conv(reduced)
    expected = [leaky(before + reduced)]
    for level, tap, width in ((neck.finer[0], middle, 16), (neck.finer[1], fine, 8)):
        up = F.interpolate(level.reduce(before), scale_factor=2, mode="nearest")
        before = level.conv(leaky(up + tap[:, :width]))
        expected.append(leaky(leaky(before + up) + tap[:, :width]))
    for found, wanted in zip(neck([fine, middle, coarse]), expected[::-1], strict=True):
        torch.testing.assert_close(found, wanted)


def test_prn_of_two_levels_takes_the_coarse_maps() -> None:
    neck = PRN(features=TAPS, channels=[16, 32])
    assert neck.features == Features((16, 32), (16, 32))
    assert [m.shape[-1] for m in neck(make_maps())] == [6, 3]


@pytest.mark.parametrize(
    ("csp", "channels", "weights", "floats", "bflops"),
    [  # docs/networks.md, PRN (published and counted) and EFM and GFM as built (counted); those BFLOPs leave out
        # the additions, up to 0.0014
        ("null", [128, 256], None, 3.159e6, {416: 4.038, 320: 2.390}),
        ("null", [128, 128, 256], None, 3.36e6, {416: 5.034}),
        ("{ratio: 0.5, split: slice}", [128, 256], 3.188e6, None, {416: 3.613}),
        ("{ratio: 0.5, split: slice}", [128, 128, 256], 3.384e6, None, {416: 4.609}),
    ],
)
def test_pelee_prn_costs_what_was_published(csp: str, channels: list[int], weights, floats, bflops) -> None:
    anchors = [[10, 14, 23, 27, 37, 58]] * len(channels)
    overrides = [f"backbone.csp={csp}", f"neck.channels={channels}", f"head.anchors={anchors}"]
    with torch.device("meta"):
        model = build_model(load_model_config("csppeleenet-prn", overrides), 80)
    if weights:
        assert count_conv_weights(model) == pytest.approx(weights, abs=600)
    if floats:
        assert count_file_floats(model) == pytest.approx(floats, abs=5000)
    for size, expected in bflops.items():
        assert count_bflops(model, (size, size)) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "panet", "channels": []}, "expected 1 to 3 entries"),
        ({"type": "panet", "channels": [8, 8, 8, 8]}, "expected 1 to 3 entries"),
        ({"type": "panet", "channels": [8, 8], "out_channels": [8]}, "expected 2 entries"),
        ({"type": "panet", "channels": [8, 8], "spp_kernels": [4]}, "4 is not a positive odd number"),
        ({"type": "panet", "channels": [8, 8], "depth": 0}, "at least 1 block"),
        ({"type": "panet", "channels": [8, 8], "spp_kernel": [5]}, "Did you mean 'spp_kernels'"),
        ({"type": "prn", "channels": [8, 8, 8, 8]}, "expected 1 to 3 entries"),
        ({"type": "panet", "channels": [8, 8], "sam": "spatial"}, "sam: expected one of pointwise, cbam"),
        ({"type": "panet", "channels": [6, 8], "rfb": "norm"}, "four branches divide, found 6"),
        ({"type": "fpn", "channels": [8, 8, 8, 8]}, "expected 1 to 3 entries"),
        ({"type": "fpn", "channels": [8, 8], "out_channels": [8]}, "expected 2 entries"),
        ({"type": "tiny_fpn", "channels": [8, 8], "reduced": [8]}, r"reduced \[8\]: expected 2 entries"),
        ({"type": "additive_fpn", "levels": 4}, "levels 4: the backbone gives 3 maps"),
        ({"type": "efm", "channels": [8, 8]}, "same: this key is missing"),
        ({"type": "efm", "channels": [8, 8], "same": [8]}, r"same \[8\]: expected 2 entries"),
        ({"type": "efm", "channels": [8, 8], "same": [8, 8], "finer": [8, 8]}, r"finer \[8, 8\]: expected 1 entries"),
        ({"type": "efm", "channels": [8, 8], "same": [33, 64]}, "Maxout compresses: expected 1 to 32 channels"),
        ({"type": "gfm", "channels": [8, 8, 8], "compressed": 25}, "Maxout compresses: expected 1 to 24 channels"),
        ({"type": "cem", "channels": [8]}, "expected 2 entries"),
        ({"type": "bifpn", "channels": 8, "levels": 1}, "expected 2 to 3 levels"),
        ({"type": "bifpn", "channels": 8, "repeats": 0}, "1 pass or more"),
        ({"type": "bifpn", "channels": 8, "out_channels": [8]}, "expected 3 entries"),
    ],
)
def test_wrong_specs_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(NECKS, spec, where="neck", features=TAPS)
