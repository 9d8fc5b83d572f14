"""The tables of types, and a model from its configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.backbones.darknet import Darknet
from models.backbones.densenet import PeleeNet
from models.backbones.resnet import ResNet
from models.config import ModelConfig
from models.darknet.graph import DarknetGraph
from models.detector import Detector, PassThrough
from models.heads.anchor import AnchorHead
from models.losses.detection import AnchorLoss
from models.necks.panet import PANet
from models.necks.prn import PRN
from utils.config import ConfigError, build

BACKBONES: dict[str, type[nn.Module]] = {
    "darknet": Darknet,
    "resnet": ResNet,
    "peleenet": PeleeNet,
    "darknet_cfg": DarknetGraph,
}
NECKS: dict[str, type[nn.Module]] = {"panet": PANet, "prn": PRN}
HEADS: dict[str, type[nn.Module]] = {"anchor": AnchorHead}
CRITERIA: dict[type[nn.Module], type[nn.Module]] = {AnchorHead: AnchorLoss}


def build_model(config: ModelConfig, num_classes: int) -> Detector:
    """The model that a configuration describes, with fresh weights.

    Raises:
        ConfigError: wrong keys or values, or an image size that the coarsest map does not divide.
    """
    where = f"{config.file}: "
    backbone = build(BACKBONES, config.backbone, where=where + "backbone")
    neck = PassThrough(features=backbone.features)
    if config.neck is not None:
        neck = build(NECKS, config.neck, where=where + "neck", features=backbone.features)
    head = build(HEADS, config.head, where=where + "head", features=neck.features, num_classes=num_classes)
    model = Detector(backbone, neck, head)
    check_image_size(model, config.size, where=where + "image_size")
    return model


def build_criterion(model: Detector, spec: dict[str, Any], *, where: str) -> nn.Module:
    """The loss that belongs to the model's head: (raw maps, Targets) -> named terms.

    Args:
        spec: its keyword arguments, the recipe's `loss`.
    Raises:
        ConfigError: wrong keys or values.
    """
    kind = CRITERIA[type(model.head)]
    return build({"loss": kind}, {"type": "loss", **spec}, where=where, head=model.head)


def check_image_size(model: Detector, size: tuple[int, int], *, where: str) -> None:
    """Refuse a (height, width) that the model's coarsest map does not divide.

    Raises:
        ConfigError: names the nearest size that fits.
    """
    if any(side % model.stride for side in size):
        nearest = " x ".join(str(nearest_multiple(side, model.stride)) for side in size)
        raise ConfigError(
            f"{where}: expected multiples of {model.stride}, the model's coarsest stride, "
            f"found {size[0]} x {size[1]}; the nearest is {nearest}"
        )


def nearest_multiple(side: int, stride: int) -> int:
    """The multiple of `stride` nearest to `side` pixels, at least one stride."""
    return max(round(side / stride), 1) * stride
