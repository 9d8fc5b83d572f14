"""What is said of a cfg file: every mistake once, with the lines where it stands."""

from __future__ import annotations

from collections.abc import Iterator

MOST_MESSAGES = 10
MOST_LINES = 3


class Remarks:
    """Mistakes or warnings of one file, those of one kind joined.

    >>> remarks = Remarks("x.cfg")
    >>> for line in (3, 9, 12, 15, 20): remarks.add(line, "[reorg] is not supported")
    >>> print(remarks)
    x.cfg, lines 3, 9, 12 and 2 more: [reorg] is not supported
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: dict[object, tuple[str, list[int]]] = {}

    def add(self, line: int, message: str, *, kind: object = None) -> None:
        """Note a message for a line; of several of one `kind`, by default the message itself, the first is told."""
        self.found.setdefault(message if kind is None else kind, (message, []))[1].append(line)

    def lines(self) -> Iterator[str]:
        """The messages, in the order of their first lines."""
        for message, numbers in list(self.found.values())[:MOST_MESSAGES]:
            more = f" and {len(numbers) - MOST_LINES} more" if len(numbers) > MOST_LINES else ""
            places = ", ".join(map(str, numbers[:MOST_LINES]))
            yield f"{self.where}, line{'s' if len(numbers) > 1 else ''} {places}{more}: {message}"
        if len(self.found) > MOST_MESSAGES:
            yield f"{self.where}: and {len(self.found) - MOST_MESSAGES} more of other kinds"

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        return "\n".join(self.lines())
