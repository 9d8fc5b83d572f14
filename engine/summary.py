"""What a run of detect.py came across: objects, frames, and where the time of a frame went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.media.sources import Frame
from utils.log import duration
from utils.structures import Detections
from utils.text import shorten
from utils.timings import Timings


@dataclass
class Summary:
    """What a run came across.

    Args:
        names: class names by label.
        task: of the model; of a classifier's classes the first alone is counted.
        timings: of the frames, by stage.
        ages: of the frames of cameras and streams, from when they were read until their detections are there.
        reconnects: how often a lost camera or stream was reached again.
    """

    names: Sequence[str]
    task: str = "detect"
    timings: Timings = field(default_factory=Timings)
    ages: Timings = field(default_factory=lambda: Timings(("age",)))
    reconnects: int = 0
    frames: int = 0
    media: set[str] = field(default_factory=set)
    objects: Counter[int] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    def add(self, frame: Frame, detections: Detections) -> None:
        """Count a frame."""
        self.frames += 1
        self.media.add(frame.source)
        if frame.media.kind == "live":
            self.ages.add("age", time.monotonic() - frame.taken)
        self.objects.update(detections.labels[: 1 if self.task == "classify" else None].tolist())

    def line(self, detections: Detections) -> str:
        """What was found in one image."""
        labels, scores = detections.labels.tolist(), detections.scores.tolist()
        if self.task == "detect":
            return count_by_name(Counter(labels), self.names)
        return (
            ", ".join(f"{shorten(self.names[label])} {score:.2f}" for label, score in zip(labels, scores, strict=True))
            or "-"
        )

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        speed = f"{self.frames / seconds:.1f} images/s"
        many = f"{self.frames} images from {len(self.media)} sources" if self.frames > 1 else f"{self.frames} image"
        lines = [f"Found: {count_by_name(self.objects, self.names)}", f"{many} in {duration(seconds)}, {speed}"]
        if self.timings.stages():
            lines.append(f"Milliseconds a frame, p50/p95: {self.timings}")
        if self.ages.stages():
            lines.append(f"Milliseconds from a frame to its detections, p50/p95: {self.ages}")
            lines.append(f"Reconnects: {self.reconnects}")
        return "\n".join(lines)


def count_by_name(labels: Counter[int], names: Sequence[str]) -> str:
    """'2 dog, 1 truck', the most frequent first."""
    return ", ".join(f"{count} {shorten(names[label])}" for label, count in labels.most_common()) or "nothing"
