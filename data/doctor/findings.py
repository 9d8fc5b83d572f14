"""Findings of the doctor, of which a set of a million labels may have a hundred thousand."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.doctor.kinds import Kind, kind_of
from data.formats.rows import (
    BACKGROUND,
    CLIPPED,
    COMPLETED,
    KEPT,
    KEYPOINTS,
    LISTED,
    MATCHED,
    NEEDED,
    NO_CLASS,
    NOT_USED,
    OUTLINES,
    REPAIRED,
    SUSPECT,
)
from utils.packed import Packed, Picked
from utils.structures import LabelProblem

Box = tuple[float, float, float, float]
"""xyxy pixels of a picture."""
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SEVERITY: dict[str, Severity] = {
    **dict.fromkeys((CLIPPED, REPAIRED, KEPT, LISTED, BACKGROUND), "warning"),
    **dict.fromkeys((SUSPECT, OUTLINES, KEYPOINTS, COMPLETED, MATCHED, NO_CLASS, NOT_USED, NEEDED), "note"),
}
"""By the action that a run takes; every other action drops or changes something, which is an error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its severity, split and place, what it is, and what a run does about it.

    Args:
        image: the picture that shows it, where one does; box: the place in it; labelled: the box that `box` disputes.
        twin: the picture that it is like.
        rank: the larger, the worse it is among those of its kind; 0 where that is not known.
    """

    severity: Severity
    split: str
    where: str
    what: str
    action: str
    image: str | None = None
    box: Box | None = None
    rank: float = 0.0
    labelled: Box | None = None
    twin: str | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.split}: {LabelProblem(self.where, self.what, self.action)}"


Group = tuple[tuple[Severity, str], Kind, str]
"""What findings of a group have in common: severity and split, kind, action."""


class Findings(Packed[Finding]):
    """All findings, packed, with the place of each in its group."""

    def __init__(self) -> None:
        self.severities: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self._groups: dict[Group, tuple[array[int], array[float]]] = {}
        super().__init__(Finding)

    def append(self, record: Finding) -> None:
        """Add a finding."""
        self.severities[record.severity] += 1
        self.actions[record.action] += 1
        group = (record.severity, record.split), kind_of(record.what, record.action), record.action
        positions, ranks = self._groups.setdefault(group, (array("q"), array("d")))
        positions.append(len(self))
        ranks.append(record.rank)
        super().append(record)

    def groups(self) -> Iterator[tuple[Group, Sequence[Finding]]]:
        """The findings of each group, the worst first."""
        for group, (positions, ranks) in self._groups.items():
            order = np.argsort(-np.array(ranks), kind="stable")
            yield group, Picked(self, np.array(positions, np.int64)[order])
