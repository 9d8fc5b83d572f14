"""What is found in image files while batches are made: told once, by rank 0, and counted over all processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from utils import dist
from utils.text import shorten

logger = logging.getLogger(__name__)

MOST, LONGEST = 50, 600
"""Texts that a process hands over at a time, and characters of each."""


@dataclass(eq=False)
class FileNotes:
    """The notes of one run.

    Args:
        told: texts that need not be told again.
        waiting: texts of this process that rank 0 has not been given yet.
        replaced: why another image had to take the place of one, for each that rank 0 has not counted yet.
    """

    told: set[str] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def add(self, *texts: str) -> None:
        """Tell of files, each once; ranks other than 0 keep the texts until `share`."""
        for text in texts:
            if text in self.told:
                continue
            self.told.add(text)
            if dist.rank() == 0:
                logger.warning("%s", text)
            else:
                self.waiting.append(text)

    def share(self, unread: Sequence[str]) -> tuple[int, str]:
        """Let rank 0 tell what the others have noted; every process calls this at the same place.

        Args:
            unread: of this process, a text for each image that could not be read since the last call.
        Returns:
            How many such images all processes together have, and the text of the first.
        """
        texts = [shorten(text, LONGEST) for text in self.waiting[:MOST]]
        if len(self.waiting) > MOST:
            texts.append(f"rank {dist.rank()}: {len(self.waiting) - MOST} more files like these")
        self.waiting = []
        notes = dist.gather([texts, len(unread), [shorten(text, LONGEST) for text in unread[:1]]])
        if dist.rank() == 0:
            for theirs, *_ in notes:
                self.add(*theirs)
        return sum(count for _, count, _ in notes), next((text for *_, first in notes for text in first), "")

    def tell_unread(self, unread: Sequence[str], *, over_ranks: bool) -> None:
        """Tell how many images of an evaluation could not be read; `over_ranks` as in `evaluate`."""
        unread = list(dict.fromkeys(unread))  # tiles have their file in common
        count, first = self.share(unread) if over_ranks else (len(unread), "".join(unread[:1]))
        if count:
            logger.warning("Evaluation without %d images that cannot be read: %s", count, first)
