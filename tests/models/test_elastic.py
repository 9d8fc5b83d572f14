"""ElasticBlock: two halves of the channels at two resolutions, beside each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.elastic import ElasticBlock
from models.layers import ConvNormAct


def convs(width: int) -> nn.Module:
    return nn.Sequential(ConvNormAct(width, width), ConvNormAct(width, width, 3))


def test_no_images_give_no_maps() -> None:
    assert ElasticBlock(8, convs).eval()(torch.zeros(0, 8, 4, 6)).shape == (0, 8, 4, 6)


@pytest.mark.parametrize("activation", ["linear", "leaky"])
def test_halves_are_seen_at_two_resolutions(activation: str) -> None:
    block = ElasticBlock(8, convs, activation=activation).eval()
    x = torch.randn(2, 8, 4, 6)
    fine = block.fine(x[:, :4])
    small = x[:, 4:].unflatten(2, (2, 2)).unflatten(4, (3, 2)).amax(dim=(3, 5))
    coarse = block.coarse(small).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = torch.cat((fine, coarse), dim=1) + x
    if activation == "leaky":
        expected = torch.where(expected > 0, expected, 0.1 * expected)
    torch.testing.assert_close(block(x), expected)


def test_gradient_reaches_both_halves() -> None:
    block = ElasticBlock(8, convs, se=2)
    block(torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="an elastic block of 7 channels: expected an even number"):
        ElasticBlock(7, convs)
