"""What every writer starts from: a detector as one function of images, and what is asked of its file."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.detector import Detector
from models.info import ModelInfo
from models.layers import ConvNormAct

INPUT = "images"
OUTPUTS = ("boxes", "scores")


@dataclass(frozen=True)
class ExportSpec:
    """What the file is to take.

    Args:
        info: of the original, with `image_size` the (height, width) to export for.
        batch_size: images at a time; with `dynamic` only where the tracing starts.
        dynamic: any batch, and any height and width that the stride divides.
        half: weights of half the size, in fp16.
    """

    info: ModelInfo
    batch_size: int = 1
    dynamic: bool = False
    half: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """Key and text: what `ModelInfo.from_metadata` reads, and the precision."""
        return {**self.info.to_metadata(), "precision": "fp16" if self.half else "fp32"}

    def example(self) -> Tensor:
        """(B, 3, H, W) zeros of the size to export for."""
        return torch.zeros(self.batch_size, 3, *self.info.image_size)


class ExportNetwork(nn.Module):
    """A detector's own copy, ready to be traced: images -> boxes and scores, batch norms merged into convolutions.

    Args:
        model: left as it is.
        half: network in fp16, between images and raw maps in fp32. Boxes are decoded in fp32 all the same: fp16 knows
            half pixels only, from 512 on.
    """

    def __init__(self, model: Detector, *, half: bool = False) -> None:
        super().__init__()
        network = copy.deepcopy(model).cpu().float().eval()
        merge_norms_(network)
        self.head = copy.deepcopy(network.head) if half else network.head
        self.network = network.half() if half else network
        self.half_precision = half
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) float32 RGB in [0, 1] -> boxes (B, N, 4) xyxy pixels of these images, scores (B, N, C)."""
        if not self.half_precision:
            return self.head.decode(self.network(images))
        return self.head.decode([raw.float() for raw in self.network(images.half())])


def merge_norms_(network: nn.Module) -> None:
    """Merge each batch norm of a ConvNormAct into the convolution before it; the same function, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
