"""Darknet's gradient of the box losses, so that its gains and learning rates mean here what they mean there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy


def straight_through(value: Tensor, logit: Tensor) -> Tensor:
    """`value`, with the gradient of `logit`: the sigmoid between the two is left out on the way back."""
    return logit + (value - logit).detach()


def with_darknet_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
    values: Tensor,
    boxes: Tensor,
    goals: Tensor,
    *,
    anchors: Tensor,
    image_size: tuple[int, int],
    bound: Tensor | None = None,
) -> Tensor:
    """An IoU loss with the gradient that darknet gives it (spec 4.3 item 5).

    Darknet takes the derivative with respect to the box as shares of the image. It hands that of the centre to tx, ty
    as it is, without the derivative of the sigmoid and of the grid, and that of the size to tw, th times exp(tw),
    exp(th), without that of anchor and image.

    Args:
        loss: aligned pairs (P, 4) xyxy pixels -> (P,).
        values: (P, 4) tx, ty, tw, th.
        boxes: (P, 4) cxcywh pixels that they decode to; goals (P, 4) xyxy pixels.
        anchors: (P, 2) width and height in pixels.
        image_size: (height, width) of the network input.
        bound: (P,) limit of each of the four derivatives, darknet's max_delta; None: no limit.
    Returns:
        (P,) the loss.
    """
    height, width = image_size
    leaf = boxes.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(cxcywh_to_xyxy(leaf), goals)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    gradient = gradient.nan_to_num(0, 0, 0) * gradient.new_tensor((width, height, width, height))
    gradient[:, 2:] *= leaf.detach()[:, 2:] / anchors
    if bound is not None:
        gradient = gradient.clamp(-bound[:, None], bound[:, None])
    linear = (gradient * values).sum(dim=1)
    return value.detach() + linear - linear.detach()
