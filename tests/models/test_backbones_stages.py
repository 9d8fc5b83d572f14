"""What backbones of stages share: maps, strides and the check of lists with one entry a stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.backbones.stages import StagedBackbone, check_lengths, last_features
from utils.structures import Features


def test_stage_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="depths has 2, channels has 3"):
        check_lengths(depths=[1, 2], channels=[8, 16, 32])
    with pytest.raises(ValueError, match="depths has 0"):
        check_lengths(depths=[])


def test_the_last_three_maps_are_given_with_their_strides() -> None:
    def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
        return nn.Conv2d(in_channels, in_channels + index + 1, 3, stride=2, padding=1), in_channels + index + 1

    backbone = StagedBackbone(nn.Identity(), 3, make_stage, count=4, first_stride=2)
    assert backbone.features == Features((6, 9, 13), (4, 8, 16))
    shapes = [tuple(x.shape) for x in backbone(torch.zeros(2, 3, 32, 64))]
    assert shapes == [(2, 6, 8, 16), (2, 9, 4, 8), (2, 13, 2, 4)]
    assert last_features([5, 7], 8) == Features((5, 7), (8, 16))
