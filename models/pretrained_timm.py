"""timm's weights of Darknet-53 and CSPDarknet-53 for the backbone of type darknet (docs/networks.md)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from models.backbones.darknet import Darknet
from utils.config import ConfigError

logger = logging.getLogger(__name__)

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of ImageNet, RGB in [0, 1]: what timm's networks of this family were trained with."""


def is_timm_darknet(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state_dict is one of timm's CSP family, by its names: Darknet-53, CSPDarknet-53, CSPResNet-50, ..."""
    return "stem.conv1.conv.weight" in weights and "stages.1.conv_down.conv.weight" in weights


def from_timm(weights: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """timm's tensors under the names of a Darknet backbone, so that both give equal features for equal inputs.

    timm makes both parts of a stage by one convolution, the bypass first, and joins [bypass, blocks]; ours has two
    convolutions and joins [blocks, bypass], as the authors' files do. The classifier is left out.

    Raises:
        ConfigError: another network of that family, which differs from the authors': says which backbone to use.
    """
    partial = any(".conv_exp." in name for name in weights)
    renamed = {source: dict(_rename(source, value, partial)) for source, value in weights.items()}
    other = [name for name, pairs in renamed.items() if not pairs and not name.startswith("head.")]
    if other or not isinstance(backbone, Darknet) or partial != any(".conv_transition_b." in name for name in weights):
        raise ConfigError(
            "these are timm's weights of a network that differs from the authors' (CSPResNet-50 and CSPResNeXt-50 "
            "split stage 1 in equal halves there and pool the stem by 3x3), or of another than this backbone: "
            "take backbone: {type: timm, model: NAME, pretrained: FILE}, NAME being timm's, for example cspresnext50"
        )
    return {name: tensor for pairs in renamed.values() for name, tensor in pairs.items()}


def fold_image_statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network for images in [0, 1] instead of normalised ones, by way of its stem.

    Exact except for the border of the stem's map, where zero padding is now black and was the mean colour.

    Args:
        weights: of a Darknet backbone, for images normalised by IMAGE_MEAN and IMAGE_STD; stem.conv.weight is
            (C, 3, 3, 3).
    """
    kernel, mean = weights["stem.conv.weight"], weights["stem.norm.running_mean"]
    scaled = kernel / torch.tensor(IMAGE_STD).view(1, 3, 1, 1)
    shift = (scaled * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)).sum((1, 2, 3))
    return {**weights, "stem.conv.weight": scaled, "stem.norm.running_mean": mean + shift}


def warn_of_slope(backbone: nn.Module) -> None:
    """Warn where the activation differs from timm's."""
    act = getattr(backbone.stem, "act", None)
    if not isinstance(act, nn.LeakyReLU) or act.negative_slope != 0.01:
        logger.warning(
            "These weights were trained with leaky ReLU of slope 0.01, and this backbone has %s: a start, but not the "
            "same features. For those add --set model.backbone.activation=leaky_relu",
            act,
        )


def _rename(name: str, value: Tensor, partial: bool) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors for one of timm's; none for the classifier and for what Darknet does not have."""
    name = name.replace(".bn.", ".norm.")
    if name.startswith("stem.conv1."):
        yield name.replace("stem.conv1.", "stem."), value
    elif match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.(.+)", name):
        stage, block, conv, rest = match.groups()
        inside = f"1.blocks.{block}" if partial else int(block) + 1
        yield f"stages.{stage}.{inside}.{'reduce' if conv == '1' else 'expand'}.{rest}", value
    elif match := re.fullmatch(r"stages\.(\d+)\.(conv_down|conv_exp|conv_transition|conv_transition_b)\.(.+)", name):
        stage, layer, rest = match.groups()
        cross = f"stages.{stage}.1"
        if layer == "conv_down":
            yield f"stages.{stage}.0.{rest}", value
        elif layer == "conv_transition_b":
            yield f"{cross}.transition1.{rest}", value
        elif layer == "conv_transition":
            swapped = torch.cat(_halves(value, 1)[::-1], 1) if value.ndim == 4 else value
            yield f"{cross}.transition2.{rest}", swapped
        else:
            for part, half in zip(("part1", "part2"), _halves(value, 0), strict=True):
                yield f"{cross}.{part}.{rest}", half


def _halves(value: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Both halves along `dim`; a scalar count, which belongs to both, twice."""
    if value.ndim == 0:
        return value, value
    first, second = value.chunk(2, dim)
    return first, second
