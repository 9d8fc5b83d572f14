"""OpenCV's own messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Without OpenCV's messages: they repeat errors that are raised, or name no file."""
    import cv2  # not needed by those who only import this

    log = getattr(cv2.utils, "logging", cv2)  # their module depends on the release
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)
