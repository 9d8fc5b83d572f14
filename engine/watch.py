"""A model that is watched while it computes: where the first value that is not finite comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sighting:
    """A tensor with values that are not finite.

    Args:
        module: name in the model, and type.
        bad, of: values that are not finite, of how many.
        images: positions in the batch that they belong to; empty where all do.
        inputs: largest finite magnitude of what the module was given.
    """

    module: str
    dtype: str
    bad: int
    of: int
    images: tuple[int, ...]
    inputs: float | None

    def __str__(self) -> str:
        given = "" if self.inputs is None else f", from inputs up to {self.inputs:.3g}"
        return f"{self.module}, {self.bad:,} of {self.of:,} values ({self.dtype}){given}"


class Watch:
    """The first output, and the first gradient of an output, that is not finite while the block runs.

    Forward passes are watched in the order in which modules finish, backward passes from the loss to the images.

    Args:
        model: called as itself, not through a wrapper.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.output: Sighting | None = None
        self.gradient: Sighting | None = None
        self.largest = 0.0
        """Largest finite magnitude in what any module gave."""

    def __enter__(self) -> Watch:
        self.hooks = [
            module.register_forward_hook(partial(self._saw, name)) for name, module in self.model.named_modules()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _saw(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        label = f"{name or 'the network'} ({type(module).__name__})"
        for value in tensors_in(output):
            if self.output is None:
                self.output = _sighting(value, label, inputs)
            self.largest = max(self.largest, largest_magnitude([value]))
            if value.requires_grad:
                value.register_hook(partial(self._saw_gradient, label))

    def _saw_gradient(self, label: str, gradient: Tensor) -> None:
        if self.gradient is None:
            self.gradient = _sighting(gradient, label, None)


def _sighting(value: Tensor, label: str, inputs: Any) -> Sighting | None:
    wrong = ~torch.isfinite(value.detach())
    bad = int(wrong.sum())
    if not bad:
        return None
    rows = wrong.flatten(1).any(dim=1) if wrong.ndim > 1 else wrong.any().view(1)
    images = () if bool(rows.all()) else tuple(torch.nonzero(rows).flatten().tolist())
    given = None if inputs is None else largest_magnitude(tensors_in(inputs))
    return Sighting(label, str(value.dtype).removeprefix("torch."), bad, value.numel(), images, given)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@torch.no_grad()
def largest_magnitude(values: Iterator[Tensor] | list[Tensor]) -> float:
    """The largest finite absolute value; 0 where there is none."""
    peaks = [float(value[torch.isfinite(value)].abs().float().max()) for value in values if torch.isfinite(value).any()]
    return max(peaks, default=0.0)
