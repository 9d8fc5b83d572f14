"""Batch normalisation over more than one batch: over the batches of a step, or over those of all processes.

Parameters, buffers and their names are those of nn.BatchNorm2d, which these layers replace during training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.config import ConfigError
from utils.dist import is_distributed, sum_over_ranks


class CrossBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of a step so far: CmBN of YOLOv4 (arXiv:2004.10934).

    Of the batches 1 to k whose gradients make one step, batch j is normalised with mean and variance of the batches 1
    to j together, each with the same weight. No gradient flows into earlier batches. The running statistics are updated
    once, at the last batch, with those of all k. With one batch per step, and in evaluation, this is nn.BatchNorm2d.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.first = self.last = True
        # Not buffers: DDP would overwrite them with those of rank 0.
        self.batches = self.mean = self.variance = self.values = torch.zeros(())
        self.momentum: float
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor

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
        """Move the running statistics (C,) towards those of the step, of `size` () values per channel."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(self.mean, self.momentum)
        self.running_var.lerp_(self.variance * (size / (size - 1).clamp(min=1)), self.momentum)


def cross_batch_norm_(model: nn.Module) -> int:
    """Replace every batch normalisation of a model by CrossBatchNorm2d; returns their number.

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


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d with mean and variance over all processes, on any device.

    In evaluation mode, and in a single process, it is BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self._synced(x) if self.training and is_distributed() else super().forward(x)
        for layer in self.children():  # timm's norms have what follows them inside: drop, then act
            y = layer(y)
        return y

    def _synced(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        tracked, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        if tracked is not None and running_mean is not None and running_var is not None:
            with torch.no_grad():
                tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1 / int(tracked)
                running_mean.lerp_(mean.to(running_mean.dtype), share)
                unbiased = variance * count / (count - 1).clamp(min=1)
                running_var.lerp_(unbiased.to(running_var.dtype), share)
        return y


class CudaSyncedBatchNorm(nn.SyncBatchNorm):
    """The same by torch's own kernels, which need CUDA."""

    process_group = None  # all processes

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x) if is_distributed() else nn.modules.batchnorm._BatchNorm.forward(self, x)


def synchronize_norms_(model: nn.Module, device: torch.device) -> None:
    """Replace each batch normalisation in `model` by one over all processes; nothing changes with one process.

    Raises:
        ConfigError: a kind of batch normalisation that is not known here.
    """
    if not is_distributed():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, _synchronized(child, device))


def _converted(old: nn.BatchNorm2d) -> CrossBatchNorm2d:
    """The same parameters and buffers, frozen where they were."""
    new = CrossBatchNorm2d(old.num_features, eps=old.eps, momentum=old.momentum)
    new.weight, new.bias = old.weight, old.bias
    for name, buffer in old.named_buffers():
        setattr(new, name, buffer)
    return new.train(old.training)


def _synchronized(norm: nn.Module, device: torch.device) -> nn.Module:
    """The same layer, with the same parameters and buffers, over all processes."""
    kind: type[nn.Module] = SyncedBatchNorm
    if type(norm) is nn.BatchNorm2d and device.type == "cuda":
        kind = CudaSyncedBatchNorm
    elif type(norm) is not nn.BatchNorm2d and type(norm).__name__ != "BatchNormAct2d":  # the latter is timm's
        name = type(norm).__name__
        raise ConfigError(f"sync_bn: expected plain batch normalisation, found {name}; leave it at false")
    synced = kind.__new__(kind)
    synced.__dict__ = dict(norm.__dict__)
    return synced


class _Normalize(torch.autograd.Function):
    """Normalisation in training; sums are double, so that the split over processes leaves no trace."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, H, W), (C,), (C,) -> (B, C, H, W) normalised, mean and variance (C,), and values a channel (1,)."""
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = [_sums(values), _sums(values.square())]
        sums.append(torch.full_like(sums[0][:1], x.numel() / x.shape[1]))
        total, squares, count = sum_over_ranks(torch.cat(sums)).split((x.shape[1], x.shape[1], 1))
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(x, mean, inverse, scale, count)
        ctx.affine = weight is not None, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.addcmul(_spread(shift, values), values, _spread(scale, values))
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, mean, inverse, scale, count = ctx.saved_tensors
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        values = (values - _spread(mean, values)) * _spread(inverse, values)
        wide = gradient.to(values.dtype)
        own = torch.cat((_sums(wide), _sums(wide * values)))
        for_bias, for_weight = own.chunk(2)  # of this process's images; DDP adds them up
        all_bias, all_weight = (sum_over_ranks(own) / count).chunk(2)
        for_x = (wide - _spread(all_bias, wide) - values * _spread(all_weight, wide)) * _spread(scale, wide)
        has_weight, has_bias = ctx.affine
        return for_x.to(x.dtype), for_weight if has_weight else None, for_bias if has_bias else None, None


def _sums(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,) in double, so that the split over processes leaves no trace; MPS has no double."""
    return values.sum((0, 2, 3), dtype=torch.float32 if values.device.type == "mps" else torch.float64)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1), in the type of `like`."""
    return values.to(like.dtype).view(1, -1, 1, 1)
