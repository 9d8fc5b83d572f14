"""The ten-crop test of classifiers: five parts of an image and their mirror images, judged together.

After AlexNet (Krizhevsky et al. 2012). The image is an eighth larger than the network's input: 288 pixels for 256, as
darknet's own ten-crop test has it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ten_crop_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the images that crops of `size` are cut from."""
    height, width = size
    return height + height // 8, width + width // 8


def ten_crops(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The four corners and the centre of each image, and their mirror images.

    Args:
        images: (B, 3, H, W); size: (height, width) of a crop, at most that.
    Returns:
        (B * 10, 3, height, width), the ten of an image together.
    """
    height, width = size
    bottom, right = images.shape[2] - height, images.shape[3] - width
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    crops = torch.stack([images[:, :, y : y + height, x : x + width] for y, x in corners], dim=1)
    return torch.cat((crops, crops.flip(-1)), dim=1).flatten(0, 1)
