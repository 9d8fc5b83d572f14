"""The tables of types, and a model from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from models.backbones.darknet import Darknet
from models.backbones.darknet_ref import DarknetRef
from models.backbones.darknet_tiny import DarknetTiny
from models.backbones.dense_ref import DenseRef
from models.backbones.densenet import DenseNet
from models.backbones.mobilenet import MobileNet
from models.backbones.peleenet import PeleeNet
from models.backbones.res2net import Res2Net
from models.backbones.resnet import ResNet
from models.backbones.timm import TimmBackbone
from models.config import ModelConfig
from models.darknet.graph import DarknetGraph
from models.detector import Detector, PassThrough
from models.heads.anchor import AnchorHead
from models.heads.anchor_free import AnchorFreeHead
from models.heads.classify import ClassifyHead
from models.heads.decoupled import DecoupledHead
from models.heads.region import RegionHead
from models.info import nearest_multiple
from models.losses.anchor import AnchorLoss
from models.losses.anchor_free import AnchorFreeLoss
from models.losses.classification import ClassificationLoss
from models.losses.decoupled import DecoupledLoss
from models.losses.region import RegionLoss
from models.necks.bifpn import BiFPN
from models.necks.cem import CEM
from models.necks.efm import EFM, GFM
from models.necks.fpn import FPN, AdditiveFPN
from models.necks.pafpn import PAFPN
from models.necks.panet import PANet
from models.necks.prn import PRN
from models.necks.tiny import TinyFPN
from models.parts import Backbone, Head, Neck
from utils.config import ConfigError
from utils.recipe import RecipeConfig, check_task
from utils.schema import build, check_spec

BACKBONES: dict[str, type[Backbone]] = {
    "darknet": Darknet,
    "darknet_ref": DarknetRef,
    "darknet_tiny": DarknetTiny,
    "resnet": ResNet,
    "res2net": Res2Net,
    "densenet": DenseNet,
    "peleenet": PeleeNet,
    "dense_ref": DenseRef,
    "mobilenet": MobileNet,
    "darknet_cfg": DarknetGraph,
    "timm": TimmBackbone,
}
NECKS: dict[str, type[Neck]] = {
    "panet": PANet,
    "pafpn": PAFPN,
    "fpn": FPN,
    "additive_fpn": AdditiveFPN,
    "tiny_fpn": TinyFPN,
    "prn": PRN,
    "gfm": GFM,
    "efm": EFM,
    "cem": CEM,
    "bifpn": BiFPN,
}
HEADS: dict[str, type[Head]] = {
    "anchor": AnchorHead,
    "anchor_free": AnchorFreeHead,
    "decoupled": DecoupledHead,
    "region": RegionHead,
    "classify": ClassifyHead,
}
CRITERIA: dict[type[Head], type[nn.Module]] = {
    AnchorHead: AnchorLoss,
    AnchorFreeHead: AnchorFreeLoss,
    DecoupledHead: DecoupledLoss,
    RegionHead: RegionLoss,
    ClassifyHead: ClassificationLoss,
}


def build_model(config: ModelConfig, num_classes: int, *, pretrained: bool = False) -> Detector:
    """The model that a configuration describes, with fresh weights.

    Args:
        pretrained: whether a backbone may fetch the weights that its key `pretrained` names. Only a new training needs
            them; a checkpoint brings its own weights and must not look for a file or use the network.
    Raises:
        ConfigError: wrong keys or values, weights that cannot be found, or an image size that the model cannot take.
    """
    check_parts(config)
    where = f"{config.file}: "
    spec = config.backbone
    if not pretrained and "pretrained" in spec:
        spec = {**spec, "pretrained": False}
    backbone = build(BACKBONES, spec, where=where + "backbone")
    neck: Neck = PassThrough(features=backbone.features)
    if config.neck is not None:
        neck = build(NECKS, config.neck, where=where + "neck", features=backbone.features)
    head = build(HEADS, config.head, where=where + "head", features=neck.features, num_classes=num_classes)
    model = Detector(backbone, neck, head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and config.norm_eps is not None:
            module.eps = config.norm_eps
    if config.resize == "crop" and model.task == "detect":
        raise ConfigError(f"{where}resize: 'crop' is for classifiers; a detector would miss what is cut off")
    check_image_size(model, config.size, where=where + "image_size")
    return model


def task_of(config: ModelConfig) -> Literal["detect", "classify"]:
    """The task of a model, which its head decides; nothing is built.

    Raises:
        ConfigError: no such head.
    """
    derived = ("features", "num_classes")
    check_spec(HEADS, config.head, where=f"{config.file}: head", derived=derived)
    return HEADS[config.head["type"]].task


def check_parts(config: ModelConfig) -> None:
    """Check the keys of backbone, neck and head against their types, before anything is built.

    Raises:
        ConfigError: every wrong key and value of all three, at once.
    """
    problems: list[str] = []
    for part, kinds in (("backbone", BACKBONES), ("neck", NECKS), ("head", HEADS)):
        spec = getattr(config, part)
        if part == "neck" and spec is None:
            continue
        try:
            check_spec(kinds, spec, where=f"{config.file}: {part}", derived=("features", "num_classes"))
        except ConfigError as error:
            problems += error.lines
    parts = (config.backbone, config.neck, config.head)
    if any(isinstance(spec, dict) and "type" not in spec for spec in parts):
        problems.append(f"{config.file}: a variant of another model file names that file with the key 'base'")
    if problems:
        raise ConfigError(*problems)


def build_criterion(
    model: Detector, spec: dict[str, Any], *, where: str, class_counts: Sequence[int] | None = None
) -> nn.Module:
    """The loss that belongs to the model's head, on the model's device: (raw maps, Targets) -> named terms.

    Args:
        spec: its keyword arguments, the recipe's `loss`.
        class_counts: objects of each class in the training set, for losses that use them.
    Raises:
        ConfigError: wrong keys or values.
    """
    kind = CRITERIA[type(model.head)]
    spec = {"type": "loss", **spec}
    criterion = build({"loss": kind}, spec, where=where, head=model.head, class_counts=class_counts)
    return criterion.to(next(model.parameters()).device)


def check_recipe(config: ModelConfig, recipe: RecipeConfig) -> None:
    """Refuse a recipe that was written for another task, or another loss, than the model's; nothing is built.

    Raises:
        ConfigError: names the keys.
    """
    check_task(recipe, task_of(config))
    kinds = {"loss": CRITERIA[HEADS[config.head["type"]]]}
    check_spec(kinds, {"type": "loss", **recipe.loss}, where="recipe: loss", derived=("head", "class_counts"))


def check_image_size(model: Detector, size: tuple[int, int], *, where: str) -> None:
    """Refuse a (height, width) that the model's coarsest map does not divide, or that its backbone does not take.

    Raises:
        ConfigError: names the nearest size that fits.
    """
    fixed = model.backbone.fixed_size
    if fixed is not None and fixed != tuple(size):
        raise ConfigError(
            f"{where}: this backbone takes {fixed[0]} x {fixed[1]} alone, found {size[0]} x {size[1]}; change one of "
            "the two (backbone.options.img_size, or dynamic_img_size where timm's network has it)"
        )
    if any(side % model.stride for side in size):
        nearest = " x ".join(str(nearest_multiple(side, model.stride)) for side in size)
        raise ConfigError(
            f"{where}: expected multiples of {model.stride}, the model's coarsest stride, "
            f"found {size[0]} x {size[1]}; the nearest is {nearest}"
        )
