"""A model for inference alone: the same function with less to compute."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.detector import Detector
from models.heads.anchor_free import AnchorFreeHead
from models.layers import ConvNormAct


def fuse_(model: Detector) -> None:
    """Put a model into evaluation mode, drop the branches that only training needs, and merge norms into convolutions.

    It cannot be trained or exported to darknet afterwards.
    """
    model.eval().requires_grad_(False)
    if isinstance(model.head, AnchorFreeHead):
        model.head.keep_one_to_one_()
    for module in model.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity().eval()
