"""CrossStagePartial against the paper's definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.blocks import ResidualBlock
from models.csp import CrossStagePartial, CSPConfig
from models.layers import ConvNormAct


class Widening(nn.Module):
    """A block that changes the width, as dense layers do."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = in_channels + growth
        self.conv = ConvNormAct(in_channels, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), dim=1)


def residual(width: int) -> list[nn.Module]:
    return [ResidualBlock(width, width), ResidualBlock(width, width)]


def dense(width: int) -> list[nn.Module]:
    return [Widening(width, 3), Widening(width + 3, 3)]


def randomise_statistics(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.eval()


def test_no_images_give_no_maps() -> None:
    stage = CrossStagePartial(8, 12, residual, csp=CSPConfig()).eval()
    assert stage(torch.zeros(0, 8, 4, 4)).shape == (0, 12, 4, 4)


@pytest.mark.parametrize("blocks", [residual, dense])
@pytest.mark.parametrize("split", ["conv", "slice"])
@pytest.mark.parametrize("fusion", ["both", "last", "first"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_stage_is_the_papers(blocks, split: str, fusion: str, ratio: float) -> None:
    stage = CrossStagePartial(8, 12, blocks, csp=CSPConfig(ratio=ratio, fusion=fusion, split=split))
    randomise_statistics(stage)
    x = torch.randn(2, 8, 5, 7)
    bypass_width = int(8 * ratio)
    bypass = x[:, :bypass_width] if split == "slice" else stage.part1(x)
    inside = x[:, bypass_width:] if split == "slice" else stage.part2(x)
    assert bypass.shape[1] == bypass_width
    assert inside.shape[1] == 8 - bypass_width
    for block in stage.blocks:
        inside = block(inside)
    if fusion in ("both", "last"):
        inside = stage.transition1(inside)
        assert isinstance(stage.transition1, ConvNormAct)
    fused = torch.cat((inside, bypass), dim=1)
    torch.testing.assert_close(stage.fuse(x), fused)
    assert stage.fused_channels == fused.shape[1]
    expected = fused
    if fusion in ("both", "first"):
        assert isinstance(stage.transition2, ConvNormAct)
        expected = stage.transition2(fused)
        assert expected.shape[1] == 12
    torch.testing.assert_close(stage(x), expected)
    assert stage.out_channels == expected.shape[1]


def test_fusions_differ_by_their_transitions() -> None:
    def parameters(fusion: str) -> int:
        stage = CrossStagePartial(8, 8, residual, csp=CSPConfig(fusion=fusion))
        return sum(p.numel() for p in stage.parameters())

    transition1, transition2 = 4 * 4 + 2 * 4, 8 * 8 + 2 * 8
    assert parameters("both") - parameters("last") == transition2
    assert parameters("both") - parameters("first") == transition1


def test_larger_ratio_is_cheaper() -> None:
    def parameters(ratio: float) -> int:
        return sum(p.numel() for p in CrossStagePartial(16, 16, residual, csp=CSPConfig(ratio=ratio)).parameters())

    assert parameters(0.75) < parameters(0.5) < parameters(0.25)


def test_gradient_flows_through_both_parts() -> None:
    stage = CrossStagePartial(8, 8, residual, csp=CSPConfig())
    stage(torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters())


def test_split_convolutions_can_be_wider_and_linear() -> None:
    stage = CrossStagePartial(8, 8, residual, csp=CSPConfig(), split_channels=16, split_activation="linear")
    assert stage.part1.conv.out_channels == stage.part2.conv.out_channels == 8
    assert isinstance(stage.part1.act, nn.Identity)
    assert isinstance(stage.transition1.act, nn.LeakyReLU)


@pytest.mark.parametrize(("fusion", "narrow"), [("both", 7), ("last", 7), ("first", 10)])
def test_transition_1_can_be_narrower_than_what_leaves_the_blocks(fusion: str, narrow: int) -> None:
    csp = CSPConfig(fusion=fusion)
    stage = CrossStagePartial(8, 12, dense, csp=csp, transition1_ratio=0.7)  # 4 channels, 10 after both blocks
    assert stage.fused_channels == narrow + 4
    assert stage(torch.randn(2, 8, 4, 4)).shape[1] == stage.out_channels == (narrow + 4 if fusion == "last" else 12)


@pytest.mark.parametrize(("channels", "ratio", "bypass"), [(8, 0.25, 2), (2, 0.01, 1), (2, 0.99, 1), (7, 0.5, 4)])
def test_each_part_has_a_channel_at_least(channels: int, ratio: float, bypass: int) -> None:
    assert CSPConfig(ratio=ratio).bypass_of(channels) == bypass


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_ratio_outside_the_open_unit_interval_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        CSPConfig(ratio=ratio)
