"""Necks that fuse several scales at once, against the same sums written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvNormAct, Maxout
from models.necks.bifpn import BiFPN
from models.necks.cem import CEM
from models.necks.efm import EFM, GFM
from models.necks.panet import ASFF, RFB
from utils.structures import Features

TAPS = Features((24, 32, 48), (8, 16, 32))


def make_maps(batch: int = 2, *, size: int = 64) -> list[Tensor]:
    return [torch.randn(batch, c, size // s, size // s) for c, s in zip(TAPS.channels, TAPS.strides, strict=True)]


def maxout(x: Tensor, width: int) -> Tensor:
    """darknet's rule, channel by channel: output g is the maximum of the channels g, g + width, ..."""
    return torch.stack([x[:, g::width].amax(dim=1) for g in range(width)], dim=1)


def up(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def down(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def assert_maps(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("width", [1, 5, 8, 24])
def test_maxout_strides_over_the_channels(width: int) -> None:
    x = make_maps()[0]
    torch.testing.assert_close(Maxout(24, width)(x), maxout(x, width))


def test_efm_fuses_itself_and_its_neighbours() -> None:
    """The table of docs/networks.md, EFM and GFM as built, with other widths."""
    neck = EFM(features=TAPS, channels=[8, 10, 16], same=[6, 12, 16], finer=[5, 9], coarser=[7, 4]).eval()
    fine, middle, coarse = make_maps()
    top = neck.reduce(coarse)
    p5 = torch.cat((top, down(maxout(middle, 9))), dim=1)
    p4 = torch.cat((maxout(middle, 12), down(maxout(fine, 5)), up(maxout(top, 4))), dim=1)
    p3 = torch.cat((maxout(fine, 6), up(maxout(middle, 7))), dim=1)
    expected = [fusion.conv(x) for fusion, x in zip(neck.fusions, (p3, p4, p5), strict=True)]
    assert_maps(neck([fine, middle, coarse]), expected)


def test_efm_defaults_are_the_fitted_widths() -> None:
    taps = Features((256, 512, 704), (8, 16, 32))
    with torch.device("meta"):
        neck = EFM(features=taps, channels=[128, 128, 256], same=[64, 128, 256])
    assert [fusion.conv.conv.in_channels for fusion in neck.fusions] == [128, 256, 384]
    widths = [[m.out_channels for m in fusion.modules() if isinstance(m, Maxout)] for fusion in neck.fusions]
    assert widths == [[64, 64], [128, 64, 64], [128]]


def test_efm_attention_is_on_the_reduced_map_and_the_finer_fusions() -> None:
    neck = EFM(features=TAPS, channels=[8, 8, 16], same=[8, 12, 16], sam="pointwise").eval()
    fine, middle, coarse = make_maps()
    top = neck.reduce[0](coarse)
    top = top * torch.sigmoid(neck.reduce[1].gate(top))
    p5 = neck.fusions[2].conv(torch.cat((top, down(maxout(middle, 12))), dim=1))
    joined = torch.cat((maxout(fine, 8), up(maxout(middle, 8))), dim=1)
    p3 = neck.fusions[0].conv(joined * torch.sigmoid(neck.fusions[0].attention.gate(joined)))
    maps = neck([fine, middle, coarse])
    assert_maps([maps[0], maps[2]], [p3, p5])


def test_gfm_fuses_all_scales_at_every_level() -> None:
    neck = GFM(features=TAPS, channels=[8, 10, 16], compressed=6, reduced=16).eval()
    fine, middle, coarse = make_maps()
    s3, s4, s5 = (maxout(x, 6) for x in (fine, middle, neck.reduce(coarse)))
    p3 = torch.cat((s3, up(s4), up(s5, 4)), dim=1)
    p4 = torch.cat((s4, down(s3), up(s5)), dim=1)
    p5 = torch.cat((s5, down(down(s3)), down(s4)), dim=1)
    expected = [fusion.conv(x) for fusion, x in zip(neck.fusions, (p3, p4, p5), strict=True)]
    assert_maps(neck([fine, middle, coarse]), expected)


def test_cem_adds_two_scales_and_the_context() -> None:
    neck = CEM(features=TAPS, channels=[8, 16], fused=20).eval()
    _, middle, coarse = make_maps()
    context = F.conv2d(coarse.mean(dim=(2, 3), keepdim=True), neck.context[1].weight, neck.context[1].bias)
    x = neck.fine(middle) + up(neck.coarse(coarse)) + context
    x = x * torch.sigmoid(neck.attention.gate(x))
    assert_maps(neck([middle, coarse]), [neck.outputs[0](x), neck.outputs[1](down(x))])


def test_bifpn_fuses_with_weights_that_sum_to_one() -> None:
    neck = BiFPN(features=TAPS, channels=8, repeats=1, separable=False).eval()
    step = neck.passes[0]
    for fuse in (*step.down_fuse, *step.up_fuse):
        nn.init.uniform_(fuse.weights, 0.1, 2)

    def fused(fuse: nn.Module, *maps: Tensor) -> Tensor:
        weights = fuse.weights.flatten()
        assert len(weights) == len(maps)
        return sum(w * x for w, x in zip(weights, maps, strict=True)) / (weights.sum() + 1e-4)

    maps = make_maps()
    p3, p4, p5 = (lateral(x) for lateral, x in zip(neck.laterals, maps, strict=True))
    d4 = step.down_conv[0](fused(step.down_fuse[0], p4, up(p5)))
    n3 = step.down_conv[1](fused(step.down_fuse[1], p3, up(d4)))
    n4 = step.up_conv[0](fused(step.up_fuse[0], p4, d4, down(n3)))
    n5 = step.up_conv[1](fused(step.up_fuse[1], p5, down(n4)))
    assert_maps(neck(maps), [n3, n4, n5])


def test_bifpn_weights_below_zero_count_nothing() -> None:
    neck = BiFPN(features=TAPS, channels=8, repeats=1).eval()
    fuse = neck.passes[0].up_fuse[0]
    with torch.no_grad():
        fuse.weights.copy_(torch.tensor([[1.0], [-3.0], [-1.0]]))
    x, other = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(fuse(x, other, other), x, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(("norm", "parameters"), [(False, 1), (True, 2)])
def test_receptive_field_block_sees_eleven_cells(norm: bool, parameters: int) -> None:
    """Branches of 1, 3, 7 and 11 cells around the centre, and the map itself."""
    torch.manual_seed(0)
    block = RFB(8, norm=norm).eval()
    x = torch.zeros(1, 8, 21, 21, requires_grad=True)
    for index, reach in enumerate((0, 1, 3, 5)):
        (grad,) = torch.autograd.grad(block.branches[index](x)[..., 10, 10].sum(), x)
        rows = grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        assert (rows.min().item(), rows.max().item()) == (10 - reach, 10 + reach)
    found = block(x)
    torch.testing.assert_close(found, torch.cat([branch(x) for branch in block.branches], dim=1) + x)
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 9
    assert all((conv.bias is None) == norm for conv in convolutions)
    assert len([m for m in block.modules() if isinstance(m, ConvNormAct)]) == 9 * (parameters - 1)


def test_adaptive_fusion_weighs_every_position() -> None:
    fusion = ASFF([8, 12, 16], weight_channels=4).eval()
    maps = [torch.randn(2, c, s, s) for c, s in ((8, 8), (12, 4), (16, 2))]
    level = fusion.levels[1]
    finer = level.resize[0](maps[0])
    coarser = up(level.resize[2][0](maps[2]))
    resized = [finer, maps[1], coarser]
    logits = level.weigh(torch.cat([reduce(x) for reduce, x in zip(level.reduce, resized, strict=True)], dim=1))
    weights = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = sum(x * weights[:, i, None] for i, x in enumerate(resized))
    found = fusion(maps)
    assert [x.shape for x in found] == [x.shape for x in maps]
    torch.testing.assert_close(found[1], expected)


def test_adaptive_fusion_of_a_far_level_pools_first() -> None:
    fusion = ASFF([8, 12, 16])
    kinds = [type(module) for module in fusion.levels[2].resize[0]]
    assert kinds == [nn.MaxPool2d, ConvNormAct]
    assert fusion.levels[0].resize[2][1].scale_factor == 4
