"""Section: one block of a darknet cfg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.darknet.keys import KINDS, convert, known_keys
from utils.text import shown


@dataclass(frozen=True)
class Section:
    """One block of a cfg.

    Args:
        kind: the word in brackets, aliases resolved.
        line: of that word in the file, from 1.
        options: key -> value as written (whole numbers as int), in the file's order.
    """

    kind: str
    line: int
    options: dict[str, str | int]

    @property
    def where(self) -> str:
        """For messages."""
        return f"line {self.line}, [{self.kind}]"

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; without a default the key is required."""
        return int(self._value(key, default, "int"))

    def number(self, key: str, default: float) -> float:
        """A number, whole or not."""
        return float(self._value(key, default, "float"))

    def text(self, key: str, default: str) -> str:
        """A word, one of those that the key allows."""
        return str(self._value(key, default, KINDS[self.kind].used[key]))

    def integers(self, key: str) -> list[int]:
        """Whole numbers with commas between; the key is required."""
        return convert(self._value(key, None, "ints"), "ints")

    def numbers(self, key: str) -> list[float]:
        """Numbers with commas between; the key is required."""
        return convert(self._value(key, None, "floats"), "floats")

    def error(self, problem: str) -> ValueError:
        """The error for something wrong here; the caller's caller adds the file."""
        return ValueError(f"{self.where}: {problem}")

    def _value(self, key: str, default: Any, kind: str | tuple[str, ...]) -> Any:
        value = self.options.get(key, default)
        if value is None:
            raise self.error(f"the key '{key}' is missing")
        try:
            convert(value, kind)
        except ValueError as error:
            raise self.error(f"{key}: {error}") from None
        return value

    def to_plain(self) -> dict[str, str | int]:
        """A mapping for YAML files and checkpoints."""
        return {"section": self.kind, "line": self.line, **self.options}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Section:
        """What `to_plain` gave.

        Raises:
            ValueError: no known kind, or options that no cfg could have.
        """
        kind, line = values.get("section"), values.get("line", 0)
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"sections: expected the key 'section' with a kind of section, found {shown(kind)}")
        options = {key: value for key, value in values.items() if key not in ("section", "line")}
        for key, value in options.items():
            if key not in known_keys(kind) or not isinstance(value, str | int | float):
                raise ValueError(f"sections: [{kind}]: {shown(key)}: {shown(value)} is no option of a darknet cfg")
        if not isinstance(line, int):
            raise ValueError(f"sections: [{kind}]: line: expected a whole number, found {shown(line)}")
        return cls(kind, line, options)
