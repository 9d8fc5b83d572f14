"""Cross mini-batch normalisation: the batches of a step are normalised together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.config import ConfigError


class CrossBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of a step so far: CmBN of YOLOv4 (arXiv:2004.10934; spec 7.5).

    Of the batches 1 to k whose gradients make one step, batch j is normalised with mean and variance of the batches
    1 to j together, each batch with the same weight. No gradient goes back into the batches before. The running
    statistics take in those of all k, once, at the last. With one batch a step, and in evaluation, this is
    nn.BatchNorm2d; parameters, buffers and their names are its own.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.first = self.last = True
        # Not buffers: DDP would overwrite them with those of rank 0.
        self.batches = self.mean = self.variance = self.values = torch.zeros(())

    def begin_batch(self, *, index: int, count: int, progress: float) -> None:
        """Say which batch of a step comes next: `index` of `count`, from 0."""
        self.first, self.last = index == 0, index == count - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), of the type of `x`."""
        if not self.training or (self.first and self.last):
            return super().forward(x)
        values = x.to(self.running_mean.dtype)
        variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        batches, size = torch.ones((), device=x.device), torch.full((), x.numel() / x.shape[1], device=x.device)
        if not self.first:
            batches, size = self.batches + 1, self.values + size
            ahead = mean - self.mean
            mean = self.mean + ahead / batches
            variance = self.variance + (variance - self.variance) / batches
            variance = variance + (batches - 1) / batches**2 * ahead**2
        self.batches, self.values, self.mean, self.variance = batches, size, mean.detach(), variance.detach()
        if self.last:
            self._take_in_(size)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, -1, 1, 1)
        return ((values - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _take_in_(self, size: Tensor) -> None:
        """Move the running statistics towards those of the step, of `size` values a channel."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(self.mean, self.momentum)
        self.running_var.lerp_(self.variance * (size / (size - 1).clamp(min=1)), self.momentum)


def cross_batch_norm_(model: nn.Module) -> int:
    """Put CrossBatchNorm2d in the place of every batch normalisation of a model; returns how many there are.

    Raises:
        ConfigError: the model has none, or layers of another kind.
    """
    others = {type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    others -= {nn.BatchNorm2d.__name__}
    if others:
        raise ConfigError(
            f"cross_batch_norm: expected plain batch normalisation (BatchNorm2d), found {', '.join(sorted(others))}; "
            "leave cross_batch_norm at false with this model"
        )
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.BatchNorm2d
    ]
    if not places:
        raise ConfigError("cross_batch_norm: this model has no batch normalisation; leave it at false")
    for parent, name, old in places:
        setattr(parent, name, _converted(old))
    return len(places)


def _converted(old: nn.BatchNorm2d) -> CrossBatchNorm2d:
    """The same parameters and buffers, frozen where they were."""
    new = CrossBatchNorm2d(old.num_features, eps=old.eps, momentum=old.momentum)
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    return new.train(old.training)
