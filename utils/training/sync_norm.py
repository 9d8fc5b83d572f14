"""Batch normalisation over the images of all processes, as one process would do it with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.config import ConfigError
from utils.dist import is_distributed, sum_over_ranks


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance are those of all processes together, on any device.

    Parameters, buffers and their names are those of BatchNorm2d, which it is in evaluation mode, and for a process that
    acts alone.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> SyncedBatchNorm:
        """The same layer, with the same parameters and buffers, that asks the other processes."""
        synced = cls.__new__(cls)
        synced.__dict__ = dict(norm.__dict__)
        return synced

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self._synced(x) if self.training and is_distributed() else super().forward(x)
        for layer in self.children():  # timm's norms have what follows them inside: drop, then act
            y = layer(y)
        return y

    def _synced(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return y


class CudaSyncedBatchNorm(nn.SyncBatchNorm):
    """The same by torch's own kernels, which are for CUDA only."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> CudaSyncedBatchNorm:
        """The same layer, with the same parameters and buffers, that asks the other processes."""
        synced = cls.__new__(cls)
        synced.__dict__ = {**norm.__dict__, "process_group": None}
        return synced

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x) if is_distributed() else nn.modules.batchnorm._BatchNorm.forward(self, x)


class _Normalize(torch.autograd.Function):
    """Normalisation in training; sums are double, so that the split over processes leaves no trace."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def synchronize_norms_(model: nn.Module, device: torch.device) -> None:
    """Replace each batch normalisation inside `model` by one over all processes; with one process nothing happens.

    Raises:
        ConfigError: a kind of batch normalisation that is not known here.
    """
    if not is_distributed():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, _synchronized(child, device))


def _synchronized(norm: nn.Module, device: torch.device) -> nn.Module:
    if type(norm) is nn.BatchNorm2d:
        return (CudaSyncedBatchNorm if device.type == "cuda" else SyncedBatchNorm).like(norm)
    if type(norm).__name__ == "BatchNormAct2d":  # of timm
        return SyncedBatchNorm.like(norm)
    raise ConfigError(f"sync_bn: expected plain batch normalisation, found {type(norm).__name__}; leave it at false")


def _sums(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,) in double, so that the split over processes leaves no trace; MPS has no double."""
    return values.sum((0, 2, 3), dtype=torch.float32 if values.device.type == "mps" else torch.float64)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1), in the type of `like`."""
    return values.to(like.dtype).view(1, -1, 1, 1)
