"""Where the time of an epoch goes."""

from __future__ import annotations

import time

import torch

PARTS = ("wait", "forward", "backward", "optimizer")
"""Of a step: waiting for the loader; forward pass and loss; backward pass; optimizer and average."""


class StepClock:
    """Seconds by part. On CUDA they are measured on the device, by events, so that measuring waits for nothing.

    Args:
        device: what computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self.pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.mark = self._now()

    def restart(self) -> None:
        """The time since the last lap belongs to no part."""
        self.mark = self._now()

    def lap(self, part: str) -> None:
        """The time since the last lap belongs to `part`."""
        now = self._now()
        if self.on_cuda:
            self.pending.append((part, self.mark, now))
        else:
            self._add(part, now - self.mark)
        self.mark = now

    def take(self, *, wait: bool = False) -> dict[str, float]:
        """Seconds of each part since the last call; `wait` includes what the device has not finished."""
        if self.pending and wait:
            torch.cuda.synchronize()
        while self.pending and self.pending[0][2].query():
            part, begin, end = self.pending.pop(0)
            self._add(part, begin.elapsed_time(end) / 1000)
        taken, self.seconds = self.seconds, {}
        return taken

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def _now(self) -> float | torch.cuda.Event:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
