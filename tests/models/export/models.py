"""What the export tests share: small detectors of every kind, with statistics as after a training."""

from __future__ import annotations

import torch
from torch import nn

from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.cfg import model_values, parse_cfg
from models.detector import Detector
from models.export.network import ExportSpec
from models.info import ModelInfo
from models.predictor_torch import ModelPredictor

NAMES = ("cat", 'süß "dog"', "<&>")
INFO = ModelInfo(NAMES, (1, 7, 90), (64, 96), "stretch", 32)

SMALL = {
    "cspdet-n": ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]", "neck.out_channels=[8, 8, 8]"],
    "cspdet-n-p2": [
        "backbone.channels=[8, 16, 24, 32]",
        "neck.channels=[8, 8, 16, 24]",
        "neck.out_channels=[8, 8, 8, 8]",
    ],
    "cspdet-n-e2e": [
        "backbone.channels=[8, 16, 24, 32]",
        "neck.channels=[8, 16, 24]",
        "neck.out_channels=[8, 8, 8]",
        "head.box_channels=8",
        "head.class_channels=8",
        "head.bins=8",
    ],
    "csppeleenet-prn": ["backbone.depths=[1, 1, 1, 1]", "head.scale_xy=1.1"],
    "cspresnext50-panet-spp": [
        "backbone.depths=[1, 1, 1, 1]",
        "backbone.channels=[16, 16, 32, 32]",
        "backbone.hidden_channels=[8, 8, 16, 16]",
        "backbone.groups=4",
        "neck.channels=[8, 16, 24]",
        "head.size=square",
    ],
    "cspdarknet53-panet-spp": [
        "backbone.depths=[1, 1, 1, 1, 1]",
        "backbone.channels=[8, 8, 16, 16, 24]",
        "backbone.activation=mish",
        "neck.channels=[8, 16, 24]",
    ],
}
"""Model files of ours, and what makes each small."""

CFG = """
[net]
width=96
height=64
channels=3
letter_box=1
{conv} filters=8 size=3 stride=2 pad=1 activation=mish
[maxpool] size=2 stride=2
{conv} filters=12 size=3 stride=2 pad=1 activation=swish
[route] layers=-1 groups=2 group_id=1
[maxpool] size=3 stride=1
{conv} filters=6 size=1 activation=relu6
[shortcut] from=-3,-2 activation=leaky weights_type=per_channel weights_normalization=softmax
[maxpool] maxpool_depth=1 out_channels=4 stride=1
[route] layers=-1,-6
{conv} filters=9 size=1 activation=leaky
[avgpool]
{conv} filters=9 size=1 activation=logistic
[scale_channels] from=-3
[local_avgpool] size=2 stride=2
[upsample] stride=2 scale=0.5
{conv} filters=9 size=1 activation=logistic
[sam] from=-2
[route] layers=-1,-10
[convolutional] filters=16 size=1 activation=linear
[yolo] mask=0,1 anchors=10,14,23,27,37,58 classes=3 num=3 scale_x_y=1.05
"""
"""The layers that only darknet's cfgs have."""

REGION = """
[net] width=96 height=64 channels=1
{conv} filters=8 size=3 stride=4 pad=1 activation=leaky
[maxpool] size=2 stride=2
[reorg3d] stride=2
{conv} filters=8 size=3 pad=1 activation=leaky
[reorg] stride=2
[convolutional] filters=16 size=1 activation=linear
[region] anchors=0.5,0.8,1.5,1.2 classes=3 num=2 softmax=1
"""
"""The layers of YOLOv2, on grey pictures."""


def darknet_config(text: str) -> ModelConfig:
    """The model of CFG or REGION, one section a line spread over lines."""
    conv = "[convolutional] batch_normalize=1"
    lines = text.replace("{conv}", conv).replace(" ", "\n")
    return ModelConfig(**model_values(parse_cfg(lines, where="test.cfg")), name="test")


def small_model(name: str) -> Detector:
    """A model of SMALL, 'darknet' or 'region'; lively weights, and norms that are not the identity."""
    torch.manual_seed(1)
    texts = {"darknet": CFG, "region": REGION}
    config = darknet_config(texts[name]) if name in texts else load_model_config(name, SMALL[name])
    model = build_model(config, len(NAMES))
    make_lively_(model)
    return model.eval()


def make_lively_(model: Detector) -> None:
    """Statistics and scales of norms as after a training, and predictions that differ."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 1.0)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for conv in prediction_layers(model.head):
        nn.init.normal_(conv.weight, 0, 0.2)
        nn.init.normal_(conv.bias, 0, 1)


def prediction_layers(head: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that give the raw maps: those with a bias and no norm."""
    return [module for module in head.modules() if isinstance(module, nn.Conv2d) and module.bias is not None]


def spec_of(model: Detector, **options: object) -> ExportSpec:
    """64 x 96 pixels."""
    info = ModelInfo(INFO.names, INFO.category_ids, INFO.image_size, INFO.resize, model.stride)
    return ExportSpec(info, **options)


def predictor_of(model: Detector) -> ModelPredictor:
    """The original."""
    return ModelPredictor(model, spec_of(model).info, device=torch.device("cpu"))
