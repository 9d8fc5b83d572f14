"""Thresholds: the scores from which on a model's detections are worth showing, as evaluation found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_OBJECTS = 50
"""Objects of a class in val from which on it has a threshold of its own; with fewer, that of all classes gave the
better F1 on images that were left out (docs/inference.md)."""
_EXPECTED = "conf, a number from 0 to 1, and by_class, a list of such numbers or nulls"


@dataclass(frozen=True)
class Thresholds:
    """Scores of the best F1; a detection counts when its score is above.

    Args:
        conf: of all classes together.
        by_class: of each class, by label; None where val had too few objects of it, and `conf` holds.

    >>> thresholds = Thresholds(0.3, (None, 0.5))
    >>> thresholds.of_labels(), thresholds.least
    (array([0.3, 0.5]), 0.3)
    >>> Thresholds.from_plain(thresholds.to_plain()) == thresholds
    True
    """

    conf: float
    by_class: tuple[float | None, ...]

    def of_labels(self) -> np.ndarray:
        """(C,) float64 threshold of each class."""
        return np.array([self.conf if own is None else own for own in self.by_class])

    @property
    def least(self) -> float:
        """The lowest of all."""
        return float(self.of_labels().min(initial=self.conf))

    def to_plain(self) -> dict[str, Any]:
        """What `from_plain` reads: plain values, for files."""
        return {"conf": self.conf, "by_class": list(self.by_class)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Thresholds:
        """What `to_plain` gave, checked before with `are_thresholds`."""
        return cls(values["conf"], tuple(values["by_class"]))

    def told(self, names: Sequence[str]) -> str:
        """For the output: the threshold of all classes, and those of the classes that have their own.

        >>> Thresholds(0.3, (None, 0.5)).told(["cat", "dog"])
        '0.300 (best F1 on val); dog 0.500'
        """
        pairs = [f"{name} {own:.3f}" for name, own in zip(names, self.by_class, strict=True) if own is not None]
        more = f" and {len(pairs) - 8} classes more" if len(pairs) > 8 else ""
        return "; ".join([f"{self.conf:.3f} (best F1 on val)", *([", ".join(pairs[:8]) + more] if pairs else [])])


def are_thresholds(value: object) -> bool:
    """Whether a value of a file is what `Thresholds.to_plain` gives."""
    if not isinstance(value, Mapping) or value.keys() != {"conf", "by_class"}:
        return False
    by_class = value["by_class"]
    if not isinstance(by_class, list | tuple) or not _is_share(value["conf"]):
        return False
    return all(own is None or _is_share(own) for own in by_class)


def is_temperature(value: object) -> bool:
    """Whether a value of a file can be a temperature."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.01 <= value <= 100


CHECKS = {"thresholds": (are_thresholds, _EXPECTED), "temperature": (is_temperature, "a number from 0.01 to 100")}
"""Keys of checkpoints and exported files, as `utils.saved` has them."""


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
