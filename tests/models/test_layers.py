"""Layers against darknet's rules, written out the slow way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.blocks import ResidualBlock
from models.layers import (
    SAM,
    SPP,
    ConvNormAct,
    Shortcut,
    SqueezeExcitation,
    halving_pool,
    make_activation,
    make_excitation,
    same_pool,
)


def test_no_images_give_no_maps() -> None:
    none = torch.zeros(0, 4, 8, 8)
    assert ConvNormAct(4, 6, 3, stride=2).eval()(none).shape == (0, 6, 4, 4)
    assert SPP(4, [5]).eval()(none).shape == (0, 8, 8, 8)
    assert Shortcut(4, 2)(none, none[:, :2]).shape == (0, 4, 8, 8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leaky", lambda x: torch.where(x > 0, x, 0.1 * x)),
        ("relu", lambda x: x.clamp(min=0)),
        ("mish", lambda x: x * torch.tanh(torch.log1p(torch.exp(x)))),
        ("swish", lambda x: x / (1 + torch.exp(-x))),
        ("linear", lambda x: x),
    ],
)
def test_activations_are_darknets(name: str, expected) -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(make_activation(name)(x.clone()), expected(x))


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="'gelu' is unknown"):
        make_activation("gelu")


def test_batch_norm_has_darknets_constants() -> None:
    norm = ConvNormAct(3, 4).norm
    assert (norm.eps, norm.momentum) == (1e-5, 0.03)


def test_convolution_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="from 3 to 0 channels"):
        ConvNormAct(3, 0)


@pytest.mark.parametrize(("channels", "source_channels"), [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_shortcut_adds_leading_channels(channels: int, source_channels: int, stride: int) -> None:
    x = torch.randn(2, channels, 3, 5)
    source = torch.randn(2, source_channels, 3 * stride, 5 * stride)
    expected = x.clone()
    for c in range(min(channels, source_channels)):
        for row in range(3):
            for column in range(5):
                expected[:, c, row, column] += source[:, c, row * stride, column * stride]
    expected = torch.where(expected > 0, expected, 0.1 * expected)
    shortcut = Shortcut(channels, source_channels, stride=stride, activation="leaky")
    torch.testing.assert_close(shortcut(x, source), expected)


def test_strided_shortcut_of_an_odd_map() -> None:
    assert Shortcut(2, 2, stride=2)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 7, 7)).shape == (1, 2, 4, 4)


def test_residual_block_adds_without_activation() -> None:
    block = ResidualBlock(4, 2).eval()
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x), x + block.expand(block.reduce(x)))
    bare = ResidualBlock(4, 2, shortcut=False).eval()
    torch.testing.assert_close(bare(x), bare.expand(bare.reduce(x)))


@pytest.mark.parametrize("kernels", [[5, 9, 13], [13, 5, 9], [3, 7], [5], [1, 3]])
def test_spp_is_every_window_widest_first(kernels: list[int]) -> None:
    x = torch.randn(2, 3, 7, 11)
    pooled = [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in sorted(kernels, reverse=True)]
    spp = SPP(3, kernels)
    torch.testing.assert_close(spp(x), torch.cat((*pooled, x), dim=1), rtol=0, atol=0)
    assert spp.out_channels == 3 * (len(kernels) + 1)


def test_spp_refuses_even_windows() -> None:
    with pytest.raises(ValueError, match="4 is not a positive odd number"):
        SPP(3, [5, 4])


def test_pool_pads_odd_sides_at_the_right_and_bottom() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert halving_pool()(x).tolist() == [[[[4.0, 5.0], [7.0, 8.0]]]]


@pytest.mark.parametrize("form", ["pointwise", "cbam"])
def test_attention_multiplies_by_a_gate(form: str) -> None:
    attention = SAM(6, form).eval()
    x = torch.randn(2, 6, 9, 5)
    seen = x if form == "pointwise" else torch.stack((x.mean(dim=1), x.max(dim=1).values), dim=1)
    gate = torch.sigmoid(attention.gate.norm(attention.gate.conv(seen)))
    assert gate.shape == (2, 6 if form == "pointwise" else 1, 9, 5)
    torch.testing.assert_close(attention(x), x * gate)
    assert attention(x[:0]).shape == (0, 6, 9, 5)


def test_dilated_convolutions_keep_the_size() -> None:
    x = torch.randn(1, 4, 9, 7)
    conv = ConvNormAct(4, 5, 3, dilation=3, activation="linear").eval()
    expected = F.conv2d(x, conv.conv.weight, padding=3, dilation=3)
    torch.testing.assert_close(conv(x), conv.norm(expected))


def test_squeeze_and_excitation_scales_channels_by_what_the_whole_map_says() -> None:
    layer = SqueezeExcitation(6, 3, activation="relu")
    x = torch.randn(2, 6, 4, 5)
    squeezed = x.mean(dim=(2, 3)) @ layer.squeeze.weight[:, :, 0, 0].T + layer.squeeze.bias
    gates = (squeezed.relu() @ layer.excite.weight[:, :, 0, 0].T + layer.excite.bias).sigmoid()
    torch.testing.assert_close(layer(x), x * gates[:, :, None, None])


def test_excitation_is_left_out_or_keeps_a_channel() -> None:
    x = torch.randn(1, 4, 2, 2)
    assert torch.equal(make_excitation(4, None)(x), x)
    assert make_excitation(4, 16).squeeze.out_channels == 1
    with pytest.raises(ValueError, match="se: expected a reduction of at least 1"):
        make_excitation(4, 0)


def test_a_pool_of_stride_1_keeps_the_size() -> None:
    x = torch.tensor([[[[-1.0, -2.0, -3.0], [-4.0, -5.0, -0.5]]]])
    assert same_pool()(x).tolist() == [[[[-1.0, -0.5, -0.5], [-4.0, -0.5, -0.5]]]]
