"""The residual block of Darknet-53, and the forms that its 3x3 convolution takes."""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import Activation, ConvNormAct, Shortcut, make_excitation
from models.parts import Block


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    depthwise: bool = False,
    kernel: int | None = None,
    activation: str = "leaky",
) -> nn.Module:
    """A 3x3 convolution with norm and activation, or the depthwise-separable pair in its place (MobileNet, YOLOX).

    The pair is a convolution of each channel by itself and a 1x1 convolution, both with norm and activation.

    Args:
        kernel: odd, of the depthwise convolution, which there then is whatever `depthwise` says; 3 when left out.
    Raises:
        ValueError: an even kernel.
    """
    if not depthwise and kernel is None:
        return ConvNormAct(in_channels, out_channels, 3, stride=stride, activation=activation)
    kernel = 3 if kernel is None else kernel
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"depthwise_blocks: expected an odd kernel, or null, found {kernel}")
    each = ConvNormAct(in_channels, in_channels, kernel, stride=stride, groups=in_channels, activation=activation)
    return nn.Sequential(each, ConvNormAct(in_channels, out_channels, activation=activation))


class ResidualBlock(Block):
    """Darknet's block: 1x1 to `hidden_channels`, 3x3 back to `channels`, and a shortcut without activation.

    Args:
        se: squeeze-and-excitation before the shortcut, the reduction of its width; null for none.
        depthwise: build the 3x3 convolution of a depthwise and a 1x1 one.
        kernel: of that depthwise convolution, see `conv3x3`.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        *,
        shortcut: bool = True,
        se: int | None = None,
        depthwise: bool = False,
        kernel: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__(channels, channels)
        self.reduce = ConvNormAct(channels, hidden_channels, activation=activation)
        self.expand = conv3x3(hidden_channels, channels, depthwise=depthwise, kernel=kernel, activation=activation)
        self.se = make_excitation(channels, se, activation=activation)
        self.shortcut = Shortcut(channels, channels) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        out = self.se(self.expand(self.reduce(x)))
        return out if self.shortcut is None else self.shortcut(out, x)
