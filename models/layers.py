"""Layers shared by several parts of a network, with darknet's conventions (docs/networks.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["leaky", "leaky_relu", "relu", "mish", "swish", "linear"]
Attention = Literal["pointwise", "cbam"]


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "linear": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
}
"""The last three are for darknet cfgs alone."""


def make_activation(name: str) -> nn.Module:
    """The activation of that name; 'linear' is the identity.

    'leaky' has darknet's slope 0.1; 'leaky_relu' has 0.01, as PyTorch and timm's CSPDarknet-53.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation '{name}' is unknown; choose leaky, leaky_relu, relu, mish, swish or linear")
    return _ACTIVATIONS[name]()


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation or bias, activation.

    Args:
        stride: (y, x) or one number for both.
        padding: by default what keeps the map's size at stride 1, with an odd kernel.
        normalize: batch normalisation in place of the bias.
        activation: a name of `make_activation`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        normalize: bool = True,
        activation: str = "leaky",
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(
                f"a convolution from {in_channels} to {out_channels} channels: expected at least 1 of each"
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups: expected a divisor of both {in_channels} and {out_channels}, the channels of a convolution, "
                f"found {groups}"
            )
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2 * dilation if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=not normalize,
        )
        if not self.conv.weight.is_meta:  # there it would draw nothing, and take most of the time of a build
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.03) if normalize else nn.Identity()
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up with the default padding."""
        return self.act(self.norm(self.conv(x)))


class Shortcut(nn.Module):
    """Darknet's shortcut: adds a source of any width to a map (partial residual; docs/networks.md, Shortcuts).

    A narrower source is added to the leading channels only; of a wider source only the leading channels are used. With
    a stride, the source is sampled at every stride-th pixel, without averaging.
    """

    def __init__(self, channels: int, source_channels: int, *, stride: int = 1, activation: str = "linear") -> None:
        super().__init__()
        self.channels = channels
        self.missing = channels - source_channels
        self.stride = stride
        self.act = make_activation(activation)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(B, channels, H, W) plus (B, source_channels, H * stride, W * stride) -> (B, channels, H, W)."""
        if self.stride > 1:
            source = source[:, :, :: self.stride, :: self.stride]
        if self.missing > 0:
            source = F.pad(source, (0, 0, 0, 0, 0, self.missing))
        elif self.missing < 0:
            source = source[:, : self.channels]
        return self.act(x + source)


class WeightedShortcut(nn.Module):
    """A shortcut of several sources, or with learned weights (BiFPN's fusion), or both.

    Each source is added to the leading channels, as in `Shortcut`. There is a weight for the map itself and for each
    source, one per map ('per_feature') or one per channel; 'relu' and 'softmax' normalise them to a sum of 1.

    Args:
        channels: of the map; `source_channels`: of each source.
    """

    def __init__(
        self,
        channels: int,
        source_channels: list[int],
        *,
        weights_type: str = "none",
        normalization: str = "none",
        activation: str = "linear",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.source_channels = tuple(source_channels)
        self.normalization = normalization.removeprefix("avg_")
        self.weights: nn.Parameter | None = None
        if weights_type != "none":
            columns = channels if weights_type == "per_channel" else 1
            self.weights = nn.Parameter(torch.ones(len(source_channels) + 1, columns))
        self.act = make_activation(activation)

    def shares(self) -> Tensor | None:
        """(1 + sources, 1 or channels) factors of the map and its sources."""
        if self.weights is None or self.normalization == "none":
            return self.weights
        if self.normalization == "relu":
            positive = self.weights.relu()
        else:
            positive = (self.weights - self.weights.amax(dim=0, keepdim=True)).exp()
        return positive / (positive.sum(dim=0, keepdim=True) + 1e-4)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, channels, H, W) and sources (B, Ci, H, W) -> (B, channels, H, W)."""
        shares = self.shares()
        total = x if shares is None else x * shares[0].view(1, -1, 1, 1)
        for index, source in enumerate(sources, 1):
            source = source[:, : self.channels]
            source = F.pad(source, (0, 0, 0, 0, 0, self.channels - source.shape[1]))
            total = total + (source if shares is None else source * shares[index].view(1, -1, 1, 1))
        return self.act(total)


class Maxout(nn.Module):
    """Maxout over channels: output g is the largest of the channels g, g + out_channels, g + 2 * out_channels, ..."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if not 1 <= out_channels <= in_channels:
            raise ValueError(
                f"Maxout compresses: expected 1 to {in_channels} channels of {in_channels}, found {out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.rounds = math.ceil(in_channels / out_channels)
        self.missing = self.rounds * out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        if self.missing:
            x = F.pad(x, (0, 0, 0, 0, 0, self.missing), value=-math.inf)
        batch, _, height, width = x.shape
        return x.view(batch, self.rounds, self.out_channels, height, width).amax(dim=1)


class SqueezeExcitation(nn.Module):
    """Every channel times a gate computed from the whole map (Hu et al., arXiv:1709.01507; darknet's scale_channels).

    Args:
        hidden_channels: width between the two 1x1 convolutions, which have biases and no normalisation.
        activation: of the first of them; the second ends in a sigmoid.
    """

    def __init__(self, channels: int, hidden_channels: int, *, activation: Activation = "leaky") -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, hidden_channels, 1)
        self.act = make_activation(activation)
        self.excite = nn.Conv2d(hidden_channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))


def make_excitation(channels: int, reduction: int | None, *, activation: Activation = "leaky") -> nn.Module:
    """Squeeze-and-excitation to `channels` / `reduction` and back, the `se` of a model file; the identity for null.

    Raises:
        ValueError: a reduction below 1.
    """
    if reduction is None:
        return nn.Identity()
    if reduction < 1:
        raise ValueError(f"se: expected a reduction of at least 1, or null, found {reduction}")
    return SqueezeExcitation(channels, max(channels // reduction, 1), activation=activation)


class SPP(nn.Module):
    """Spatial pyramid pooling: the map beside its own max-pooled copies, widest window first.

    See docs/networks.md, PANet with SPP, layers 84 to 89.

    Args:
        kernels: odd window sizes; darknet's are 5, 9, 13.
    """

    def __init__(self, in_channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        even = [kernel for kernel in kernels if kernel % 2 == 0 or kernel < 1]
        if even:
            raise ValueError(f"spp_kernels {list(kernels)}: {even[0]} is not a positive odd number")
        self.kernels = tuple(sorted(kernels))
        self.out_channels = in_channels * (len(self.kernels) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * (1 + kernels), H, W)."""
        maps, covered = [x], 1
        for kernel in self.kernels:  # a window of 5 over a window of 5 sees 9: same values, fewer comparisons
            step = kernel - covered + 1
            maps.append(F.max_pool2d(maps[-1], step, stride=1, padding=step // 2))
            covered = kernel
        return torch.cat(maps[::-1], dim=1)


class SAM(nn.Module):
    """Spatial attention: a map times a gate between 0 and 1 computed from the map itself.

    See docs/networks.md, Spatial attention.

    Args:
        form: 'pointwise' is darknet's [sam], a gate for every channel and position by a 1x1 convolution (YOLOv4);
            'cbam' is the original, one gate per position by a 7x7 convolution over the mean and maximum of the channels
            (Woo et al., CBAM, arXiv:1807.06521).
    """

    def __init__(self, channels: int, form: Attention = "pointwise") -> None:
        super().__init__()
        self.pointwise = form == "pointwise"
        seen, gates, kernel = (channels, channels, 1) if self.pointwise else (2, 1, 7)
        self.gate = ConvNormAct(seen, gates, kernel, activation="linear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        seen = x if self.pointwise else torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.gate(seen))


def make_attention(channels: int, form: Attention | None) -> nn.Module:
    """Spatial attention of a form, (B, C, H, W) -> the same shape: the `sam` of a neck; the identity for null."""
    return nn.Identity() if form is None else SAM(channels, form)


def halving_pool() -> nn.MaxPool2d:
    """Darknet's 2/2 max pool: an odd side is padded at the right or bottom, so its half is rounded up."""
    return nn.MaxPool2d(2, ceil_mode=True)


def same_pool() -> nn.Sequential:
    """Darknet's max pool of size 2 and stride 1: padded at the right and bottom, it keeps the map's size."""
    return nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -math.inf), nn.MaxPool2d(2, stride=1))
