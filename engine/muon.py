"""Muon: momentum whose update of each weight matrix is made orthogonal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of one round x -> a x + b (x x^T) x + c (x x^T)^2 x, which grow small values fast (Jordan)."""

RMS = 0.2
"""Root mean square of an update before the learning rate: about that of AdamW's, so that its rates fit (Moonlight)."""

BLOCK = 128
"""Most rows that are made orthogonal together: the time grows with their cube (blocks: Khaled et al., 2025)."""


class Muon(torch.optim.Optimizer):
    """Orthogonal updates for matrices (Jordan et al., 2024), AdamW (arXiv:1711.05101) for all other parameters.

    A convolution's weight counts as the matrix (out, in * kernel). Its momentum is brought near the closest
    semi-orthogonal matrix by Newton-Schulz iteration, so that every direction of it moves alike, and then scaled to a
    root mean square of 0.2, which lets it share AdamW's learning rate and decoupled weight decay (Liu et al.,
    arXiv:2502.16982). A matrix with more than 128 rows and columns is taken in blocks of 128 rows, each by itself
    (Khaled et al., arXiv:2510.16981, without their rounds on whole matrices).

    Args:
        params: parameters, or groups of them; a group with `orthogonal: True` holds matrices, others are AdamW's.
        lr: learning rate.
        momentum: of the matrices.
        nesterov: look one step ahead with the momentum.
        betas, eps: of AdamW.
        weight_decay: decoupled, times the learning rate.
        rounds: of the iteration.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        rounds: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "rounds": rounds, "orthogonal": False})
        for group in self.param_groups:
            if group["orthogonal"] and any(weight.ndim < 2 for weight in group["params"]):
                raise ValueError("orthogonal updates are for parameters of two dimensions or more")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            (self._step_orthogonal if group["orthogonal"] else self._step_adam)(group, weights)
        return loss

    def _step_orthogonal(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        gradients = _gradients(weights)
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight, direction in zip(weights, ahead, strict=True):
            rows, columns = len(weight), weight[0].numel()
            most = BLOCK if min(rows, columns) > BLOCK else rows
            for part, block in zip(weight.split(most), direction.reshape(rows, columns).split(most), strict=True):
                alike[len(block), columns].append((part, block))
        for (rows, columns), parts in alike.items():
            stacked = torch.stack([block for _, block in parts])
            updates = orthogonal(stacked, rounds=group["rounds"]) * (RMS * max(rows, columns) ** 0.5)
            for (part, _), update in zip(parts, updates, strict=True):
                part.sub_(update.view_as(part), alpha=group["lr"])

    def _step_adam(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                zeros = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
                self.state[weight].update(step=torch.tensor(0.0), **zeros)
        states = [self.state[weight] for weight in weights]
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            _gradients(weights),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # of amsgrad
            [state["step"] for state in states],
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            fused=all(weight.is_cpu for weight in weights),
        )


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def orthogonal(matrices: Tensor, *, rounds: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with singular values near 1 (0.7 to 1.2 with five rounds) and the same directions.

    Each round multiplies x by the same kind of polynomial in x x^T. So the rounds run on that product alone, which is
    square and small, and x is multiplied once at the end; in single precision at least, whose rounding this can bear.
    Where x is nearly square itself, rounds on x take fewer multiplications.
    """
    a, _, _ = NEWTON_SCHULZ
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(torch.promote_types(matrices.dtype, torch.float32))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if 2 * x.shape[2] < 3 * x.shape[1]:
        for _ in range(rounds):
            x = torch.baddbmm(x, _factor(x @ x.mT), x, beta=a)
        return (x if wide else x.mT).to(matrices.dtype)
    square = x @ x.mT
    product: Tensor | None = None
    for number in range(rounds):
        factor = _factor(square)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if number < rounds - 1:
            square = factor @ square @ factor
    if product is not None:
        x = product @ x
    return (x if wide else x.mT).to(matrices.dtype)


def _factor(square: Tensor) -> Tensor:
    """The polynomial of a round in x x^T, without its constant term."""
    _, b, c = NEWTON_SCHULZ
    return torch.baddbmm(square, square, square, beta=b, alpha=c)
