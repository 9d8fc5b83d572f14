"""Sequences of many small records, such as problems of labels: packed, they take a tenth of the memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")

BLOCK = 256
"""Records that are packed together; those of one kind have most of their text in common."""

UNPACKED = 8
"""Blocks that are kept as they are given."""


class Packed(Sequence[T]):
    """A sequence of dataclass records that grows at its end.

    Args:
        make: their class; its fields hold texts, plain numbers, None and tuples of these.
        records: the first ones.

    >>> from utils.structures import LabelProblem
    >>> problems = Packed(LabelProblem)
    >>> for line in range(1000):
    ...     problems.append(LabelProblem(f"a.txt:{line}", "no number", "left out"))
    >>> len(problems), problems[7].where, problems[-1].where, len(problems[::100])
    (1000, 'a.txt:7', 'a.txt:999', 10)
    """

    def __init__(self, make: type[T], records: Iterable[T] = ()) -> None:
        self._make: Callable[..., T] = make
        names = [field.name for field in fields(make)]  # type: ignore[arg-type]  # a dataclass
        self._values = attrgetter(*names)
        self._blocks: list[bytes] = []
        self._last: list[T] = []
        self._unpacked: dict[int, list[T]] = {}
        self.extend(records)

    def append(self, record: T) -> None:
        """Add a record."""
        self._last.append(record)
        if len(self._last) == BLOCK:
            self._blocks.append(zlib.compress(json.dumps([self._values(each) for each in self._last]).encode(), 1))
            self._last = []

    def extend(self, records: Iterable[T]) -> None:
        """Add several records."""
        for record in records:
            self.append(record)

    def put_first(self, record: T) -> None:
        """Add a record before all others."""
        others = list(self._last)
        blocks, self._blocks, self._last, self._unpacked = self._blocks, [], [], {}
        self.append(record)
        for block in blocks:
            self.extend(self._unpack(block))
        self.extend(others)

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK + len(self._last)

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._blocks)):
            yield from self._block(number)
        yield from self._last

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The record at a position, or those of a slice."""
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        number, place = divmod(range(len(self))[index], BLOCK)
        return self._last[place] if number == len(self._blocks) else self._block(number)[place]

    def settled(self) -> Sequence[T]:
        """The records as a tuple where they are few, else this."""
        return self if self._blocks else tuple(self._last)

    def _block(self, number: int) -> list[T]:
        if number not in self._unpacked:
            while len(self._unpacked) >= UNPACKED:
                del self._unpacked[next(iter(self._unpacked))]
            self._unpacked[number] = self._unpack(self._blocks[number])
        return self._unpacked[number]

    def _unpack(self, block: bytes) -> list[T]:
        rows: list[list[Any]] = json.loads(zlib.decompress(block))
        return [self._make(*(tuple(value) if isinstance(value, list) else value for value in row)) for row in rows]


class Picked(Sequence[T]):
    """The records of a sequence at these positions (K,) int64, in their order."""

    def __init__(self, records: Sequence[T], positions: np.ndarray) -> None:
        self._records, self._positions = records, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The record at a position, or those of a slice."""
        if isinstance(index, slice):
            return [self._records[each] for each in self._positions[index].tolist()]
        return self._records[int(self._positions[index])]
