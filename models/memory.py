"""The most memory that tensors take at once while a network runs, counted exactly and without running it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of every tensor made inside it, from the operation that makes it until nothing refers to it.

    Tensors that share storage (views, in-place results) count once. What an operation needs for itself alone, such as
    the scratch space of a convolution, is not seen.

    Args:
        known: tensors from outside, which do not count where they come out of an operation again, as views.
    Attributes:
        peak: the most bytes that were held at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._alive = {_identity(tensor) for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._hold(value)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _identity(tensor)
        size = storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._held += size
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._held -= size


def _identity(tensor: Tensor) -> int:
    """A number for the tensor's storage, which views share."""
    return tensor.untyped_storage()._cdata


@torch.inference_mode()
def forward_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of the weights, of the images, and of the most that `model.predict(images)` holds beside them at once.

    The device may be 'meta': then nothing is computed, and the number is the same.
    """
    tensors = (*model.parameters(), *model.buffers(), images)
    fixed = {_identity(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    with PeakMemory(tensors) as memory:
        model.predict(images)
    return sum(fixed.values()) + memory.peak
