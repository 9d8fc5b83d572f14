"""Backbones against the authors' graphs: what each kind of block computes, quirks of the files, the tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.benchmark.costs import count_bflops
from models.build import BACKBONES
from models.config import load_model_config
from tests.models.test_backbones import CSP, SMALL, count_conv_weights, count_file_floats, make, on_meta, shapes
from utils.schema import build
from utils.structures import Features

SLICE = {**CSP, "split": "slice"}


def test_sparse_layers_read_steps_at_powers_of_two() -> None:
    stage = make(SMALL["peleenet-sparse"]).stages[-1].blocks[0].eval()
    assert [stage.sources(step) for step in (1, 2, 3, 4, 5)] == [[0], [0, 1], [1, 2], [0, 2, 3], [1, 3, 4]]
    x = torch.randn(1, stage.in_channels, 4, 4)
    maps = [x]
    for layer, sources in zip(stage.layers, ([0], [0, 1], [1, 2], [0, 2, 3]), strict=True):
        maps.append(layer.new_maps(torch.cat([maps[i] for i in sources], dim=1)))
    torch.testing.assert_close(stage(x), torch.cat(maps, dim=1))


def test_res2_blocks_add_each_group_to_the_next() -> None:
    block = make(SMALL["res2net"]).stages[-1][-1].eval()
    x = torch.randn(1, 128, 4, 4)
    first, second, third, fourth = block.enter(x).chunk(4, dim=1)
    second = block.convs[0](second)
    third = block.convs[1](third + second)
    fourth = block.convs[2](fourth + third)
    expected = block.leave(torch.cat((first, second, third, fourth), dim=1)) + x
    torch.testing.assert_close(block(x), expected)


def test_dense_layers_put_new_channels_where_the_files_do() -> None:
    x = torch.randn(1, 16, 4, 4)
    dense = make(SMALL["densenet"]).stages[0].blocks[0].eval()
    torch.testing.assert_close(dense(x)[:, 8:], x)  # densenet201.cfg: [route] layers=-1,-3
    two_way = make(SMALL["peleenet"]).stages[0].blocks[0].eval()
    torch.testing.assert_close(two_way(x)[:, :16], x)


def test_mobilenet_gives_the_maps_that_enet_coco_reads() -> None:
    spec = SMALL["mobilenet"]
    assert make(spec).features == Features((8, 16, 64), (2, 4, 8))
    backbone = make(spec, tap="expansion").eval()
    assert backbone.features == Features((48, 96, 64), (2, 4, 8))
    images = torch.rand(1, 3, 32, 32)
    maps = backbone(images)
    assert [m.shape for m in maps] == shapes(backbone.features, 1, 32, 32)
    outputs = make(spec).eval()
    outputs.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(outputs(images)[-1], maps[-1])
    torch.testing.assert_close(maps[1], backbone.stages[2][0].expand(outputs(images)[1]))


@pytest.mark.parametrize(
    ("name", "layers", "spec", "taps"),
    [
        (
            "yolov3-tiny.cfg",
            13,
            {"channels": [16, 32, 64, 128, 256, 512, 1024], "pool_strides": [2, 2, 2, 2, 2, 1], "type": "darknet_ref"},
            ((128, 256, 1024), (8, 16, 32)),
        ),
        (
            "yolov3-tiny-prn.cfg",
            14,
            {
                "type": "darknet_ref",
                "channels": [16, 32, 64, 128, 256, 512, 512],
                "pool_strides": [2, 2, 2, 2, 2, 1],
                "shortcut": True,
            },
            ((128, 256, 512), (8, 16, 32)),
        ),
        (
            "yolov4-tiny.cfg",
            27,
            {"type": "darknet_tiny", "channels": [64, 128, 256], "csp": {"fusion": "last", "split": "slice"}},
            ((128, 256, 512), (8, 16, 32)),
        ),
    ],
)
def test_tiny_backbones_have_the_layers_of_the_files(
    name: str, layers: int, spec: dict[str, Any], taps: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    backbone = make(spec)
    assert backbone.features == Features(*taps)
    with torch.device("meta"):
        graph = build(BACKBONES, load_model_config(name).backbone, where=name)
    theirs = [layer for layer in graph.layers[:layers] if hasattr(layer, "conv")]
    ours = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.weight.shape for conv in ours] == [layer.conv.weight.shape for layer in theirs]
    assert [conv.stride for conv in ours] == [layer.conv.stride for layer in theirs]


def test_resnet_keeps_the_quirks_of_the_files() -> None:
    hidden, widths = [64, 128, 256, 512], [256, 512, 1024, 2048]
    spec = {"type": "resnet", "depths": [3, 3, 5, 2], "channels": widths, "hidden_channels": hidden, "csp": CSP}
    backbone = on_meta(spec, transition_channels=[128, 256, 512, 1024])
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
    spec = {"type": "darknet", "depths": [1, 2, 8, 8, 4], "channels": [64, 128, 256, 512, 1024], "csp": CSP}
    backbone = on_meta(spec)
    widths = [(stage[1].part1.conv.out_channels, stage[1].part2.conv.out_channels) for stage in backbone.stages]
    assert widths == [(64, 64), (64, 64), (128, 128), (256, 256), (512, 512)]
    assert backbone.stages[0][1].blocks[0].reduce.conv.out_channels == 32


@pytest.mark.parametrize(
    # docs/networks.md: PeleeNet is read from its authors' code; CSPPeleeNet is a fit to the published one
    ("ratio", "weights", "taken"),
    [(None, 2.7915e6, 1.0166), (0.5, 2.843e6, 0.893), (0.25, 3.216e6, 1.013), (0.75, 2.514e6, 0.785)],
)
def test_peleenet_and_its_ratios(ratio: float | None, weights: float, taken: float) -> None:
    spec = {"type": "peleenet", "depths": [3, 4, 8, 6], "hidden_channels": [16, 32, 64, 64]}
    backbone = on_meta(spec, csp=None if ratio is None else {**SLICE, "ratio": ratio})
    classifier = 704 * 1000
    assert count_conv_weights(backbone) + classifier == pytest.approx(weights, abs=600)
    assert count_bflops(backbone, (224, 224)) + 2 * classifier / 1e9 == pytest.approx(taken, abs=0.0006)


def test_csppeleenet_backbone_alone() -> None:
    spec = {"type": "peleenet", "depths": [3, 4, 8, 6], "hidden_channels": [16, 32, 64, 64], "csp": SLICE}
    backbone = on_meta(spec)
    assert count_file_floats(backbone) == 2163488  # docs/networks.md, CSPPeleeNet
    for size, expected in ((416, 3.076), (320, 1.820), (512, 4.660)):
        assert count_bflops(backbone, (size, size)) == pytest.approx(expected, abs=0.001)
    assert backbone.features.channels == (256, 512, 704)
