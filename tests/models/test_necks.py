"""Necks: widths and strides, the darknet files' order of concatenation and addition, and the published costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.build import NECKS, build_model
from models.config import load_model_config
from models.flops import count_bflops
from models.layers import ConvNormAct
from models.necks.panet import PANet
from models.necks.prn import PRN
from tests.models.test_backbones import count_conv_weights, count_file_floats
from utils.config import ConfigError, build
from utils.structures import Features

TAPS = Features((24, 32, 48), (8, 16, 32))


def make_maps(batch: int = 2, *, size: int = 96) -> list[Tensor]:
    return [torch.randn(batch, c, size // s, size // s) for c, s in zip(TAPS.channels, TAPS.strides, strict=True)]


@pytest.mark.parametrize("spec", [{"type": "panet", "channels": [8, 16, 32]}, {"type": "prn", "channels": [8, 16]}])
def test_no_images_give_no_maps(spec: dict[str, Any]) -> None:
    neck = build(NECKS, spec, where="neck", features=TAPS).eval()
    assert all(m.shape[0] == 0 for m in neck(make_maps(0)))


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
    """Whoever reads a darknet weight file may follow the order of execution (spec 3.1, kernels of layers 81 to 135)."""
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
    """Layers 14 to 25 of yolov3-tiny-prn.cfg (spec 3.2), and the third level."""
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
    [  # spec 3.2 (published and counted) and 3.5 (counted); its BFLOPs leave out the additions, up to 0.0014
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
    ],
)
def test_wrong_specs_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(NECKS, spec, where="neck", features=TAPS)
