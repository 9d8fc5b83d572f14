"""A model for inference alone: the same function with less to compute."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
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


def pack_(model: Detector) -> None:
    """Hand the convolutions of a fused model to oneDNN for inference on a CPU in fp32, where that can be.

    oneDNN then finds weights in its own order, which PyTorch makes anew at each call, and applies the activation while
    the values are in the cache. torch.compile calls the same operators. The weights are no parameters any more.
    """
    if not _can_pack():
        return
    for module in model.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.Identity):
            packed = PackedConv(module.conv, module.act)
            module.conv = packed  # type: ignore[assignment]
            if packed.activation != "none":
                module.act = nn.Identity()


class PackedConv(nn.Module):
    """A convolution and its activation in one call of oneDNN; fp32, without gradients.

    Its weights are in the order that suits the shape of the first input. Other shapes give the same values.

    Args:
        conv: with zeros as padding.
        activation: applied here if `activation` is not 'none' afterwards.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.activation, self.scalars = "none", list[float]()
        if isinstance(activation, nn.SiLU):
            self.activation = "swish"
        elif isinstance(activation, nn.ReLU):
            self.activation = "relu"
        elif isinstance(activation, nn.LeakyReLU):
            self.activation, self.scalars = "leaky_relu", [activation.negative_slope]
        self.weight = (conv.weight.detach(), False)
        """And whether it is in oneDNN's order; both change at once, as several threads may call the model."""
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.place = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        weight, packed = self.weight
        if not packed:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *self.place, list(x.shape))
            self.weight = (weight, True)
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, *self.place, self.activation, self.scalars, ""
        )


@cache
def _can_pack() -> bool:
    """Whether this PyTorch has the operators, which its interface does not promise, and they compute the right."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    block = ConvNormAct(8, 8, 3, groups=2, normalize=False, activation="swish").requires_grad_(False)
    x = torch.linspace(-2, 2, 8 * 36).view(1, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            return torch.allclose(PackedConv(block.conv, block.act)(x), block(x), atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
