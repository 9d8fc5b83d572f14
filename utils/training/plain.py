"""Plain values: what a checkpoint may hold, so that reading it back never runs code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(value: Any, where: str) -> Any:
    """`value` with Python's numbers for NumPy's, which could not be read again; itself where it has none.

    Args:
        where: what the value is, for the message.
    Raises:
        TypeError: something else than tensors, texts, numbers, None, and dicts, lists and tuples of them.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, dict):
        new = {key: plain(item, f"{where}.{key}") for key, item in value.items()}
        return value if all(new[key] is item for key, item in value.items()) else new
    if isinstance(value, list | tuple):
        items = [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(items)
    raise TypeError(f"{where}: expected a tensor or a plain value, found {type(value).__name__}")


def size_in_bytes(value: Any) -> int:
    """About how large a file with `value` is: each piece of memory once, and a little for the rest."""
    pieces: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            pieces[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(value)
    return sum(pieces.values()) + 100_000


def same_values(one: Any, two: Any) -> bool:
    """Whether two nests of dicts, lists, tensors and plain values are equal to the last bit; devices may differ."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        one, two = one.cpu().contiguous(), two.cpu().contiguous()
        return one.dtype == two.dtype and one.shape == two.shape and bytes(_raw(one)) == bytes(_raw(two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same_values(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same_values, one, two))
    return one == two


def _raw(value: Tensor) -> memoryview:
    return memoryview(value.reshape(-1).view(torch.uint8).numpy()) if value.numel() else memoryview(b"")


def copied(value: Any) -> Any:
    """A nest of dicts, lists, tensors and plain values with tensors of its own, in main memory."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
