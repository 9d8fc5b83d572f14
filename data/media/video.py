"""Video input by OpenCV: files, cameras, streams."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time as clock
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from utils.opencv import silent_opencv
from utils.text import can_hold

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv"}
)
"""Names in lower case that count as videos."""

_ATTEMPTS, _PATIENCE_S = 250, 1.0
"""Failed reads in a row that are taken for the end, and how long one may take: damage fails at once, a network not."""
_NOTHING = np.empty((0, 0, 3), np.uint8)
_LAST_PACKETS, _TICK_S = 5000, 0.002
"""Packets from the last key frame on that are looked at, and how exact OpenCV's times are."""
NOMINAL_FPS = Fraction(25)
"""Frame rate written for a source that states none; the frames' own times still decide when each is shown."""


class VideoReader:
    """Frames of a video file, a camera or a stream, one after another.

    Damaged stretches of a file are passed over: the next frame that can be decoded follows.

    Args:
        source: file path or URL, or the number of a camera.
        timeout_s: how long a stream may stay silent before it counts as lost.
    Raises:
        ValueError: it cannot be opened.
    """

    def __init__(self, source: str | int, *, timeout_s: float = 10.0) -> None:
        self._capture = _open_capture(source, timeout_s)
        self.fps = exact_fps(self._capture.get(cv2.CAP_PROP_FPS))
        """Frame rate by the header, or None where it states none that is credible."""
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if 0 < count < 1e9 else None
        """Frames by the header, which may be off; None for what has no end."""
        self.position = -1
        """Of the frame read last among those of the source, from 0; those that could not be decoded count."""
        self.damage: list[float] = []
        """Where something could not be decoded: times in seconds of the frames that came next."""
        self._time, self._first = -1.0, 0.0
        self._goes_on = self.frames is not None or (isinstance(source, str) and "://" not in source)
        self._stretch = _stretch(self._capture)
        height, width = (self._capture.get(key) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size = _stretched_size(round(height), round(width), *self._stretch)
        """(height, width) of the frames by the header."""

    def read(self, *, wanted: bool = True) -> tuple[np.ndarray, float] | None:
        """The next frame, (H, W, 3) uint8 RGB, upright, with square pixels, and its time in seconds; None at the end.

        Times strictly increase: where the source's do not (raw streams have none), the frame rate fills in.

        Args:
            wanted: False passes over a frame: it is decoded, but its image is empty, which saves the colours.
        """
        image, failed = self._next(wanted=wanted)
        if image is None:
            return None
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not math.isfinite(time) or time <= self._time:
            time = 0.0 if self._time < 0 else self._time + float(1 / (self.fps or NOMINAL_FPS))
        if self.position < 0 and not failed:
            self._first = time
        self._time, self.position = time, self._place(time, failed)
        if failed:
            self.damage.append(time)
        if not wanted:
            return image, time
        return _stretched(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), *self._stretch), time

    def close(self) -> None:
        """Release the file or device."""
        self._capture.release()

    def _next(self, *, wanted: bool) -> tuple[np.ndarray | None, int]:
        """The next image that can be decoded, and how many attempts before it failed: about one a damaged frame."""
        most = min(max(_ATTEMPTS, (self.frames or 0) - self.position), 80 * _ATTEMPTS) if self._goes_on else 1
        for failed in range(most):
            begin = clock.monotonic()
            success, image = self._capture.read() if wanted else (self._capture.grab(), _NOTHING)
            if success:
                return image, failed
            if clock.monotonic() - begin > _PATIENCE_S:
                break
        return None, most

    def _place(self, time: float, failed: int) -> int:
        """The position of a frame: the next, or after damage what its time says, if that lies on the frames' grid."""
        following = self.position + 1 + failed
        if (failed or self.damage) and self.fps:
            grid = (time - self._first) * float(self.fps)
            if abs(grid - round(grid)) < 0.1:
                return max(round(grid), self.position + 1)
        return following


def breaks_off(path: str, end: float) -> bool:
    """Whether a video file has frames after its time `end`, in seconds, that cannot be decoded.

    FFmpeg itself is asked, from the last key frame before: OpenCV does not tell damage from the end.
    """
    av.logging.set_level(None)  # the errors are expected here; older releases of torchvision have them logged
    try:
        with _plain_name(path) as name, av.open(name) as container:
            stream = container.streams.video[0]
            start, base = stream.start_time or 0, stream.time_base or Fraction(1)
            container.seek(start + int(end / base), stream=stream)
            for packet in itertools.islice(container.demux(stream), _LAST_PACKETS):
                try:
                    packet.decode()
                except av.error.FFmpegError:
                    if packet.pts is not None and (packet.pts - start) * base > end + _TICK_S:
                        return True
    except (av.error.FFmpegError, OSError, IndexError):
        pass  # nothing that could be told of it
    return False


def exact_fps(value: float) -> Fraction | None:
    """The frame rate as a ratio (29.97 as 30000/1001 where that is meant), or None if no camera has such a rate."""
    if not math.isfinite(value) or not 0.01 <= value <= 480:
        return None
    return Fraction(value).limit_denominator(1001)


def _open_capture(source: str | int, timeout_s: float) -> cv2.VideoCapture:
    with silent_opencv():
        if isinstance(source, int):
            capture = cv2.VideoCapture(min(source, 9999))
        else:
            limit = int(timeout_s * 1000)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            with _plain_name(source) as name:
                capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
        opened = capture.isOpened()
    if not opened:
        capture.release()
        if isinstance(source, str) and "://" not in source and not os.path.isfile(source):
            raise ValueError("no such video file")
        if isinstance(source, int):
            raise ValueError(f"camera {source} cannot be opened; is it connected, allowed, and not in use elsewhere?")
        raise ValueError("cannot be opened as video; play it with another program to see whether it is damaged or gone")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


@contextlib.contextmanager
def _plain_name(source: str) -> Iterator[str]:
    """A name for FFmpeg: absolute, as it takes 'a:b.mp4' for a protocol, and of characters, as OpenCV crashes else."""
    path = source if "://" in source else os.path.abspath(source)
    if can_hold("utf-8", path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "video").with_suffix(Path(path).suffix if can_hold("utf-8", Path(path).suffix) else "")
        link.symlink_to(path)
        yield str(link)


def _stretch(capture: cv2.VideoCapture) -> tuple[float, float]:
    """By how much (height, width) of an upright frame must grow for square pixels: DVDs and old cameras have others."""
    over, under = (capture.get(key) for key in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    if not (over > 0 and under > 0 and 0.2 <= over / under <= 5):
        return 1.0, 1.0
    turned = round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
    return (over / under, 1.0) if turned else (1.0, over / under)


def _stretched(image: np.ndarray, down: float, across: float) -> np.ndarray:
    size = _stretched_size(image.shape[0], image.shape[1], down, across)
    if size == image.shape[:2]:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if min(down, across) < 1 else cv2.INTER_LINEAR)


def _stretched_size(height: int, width: int, down: float, across: float) -> tuple[int, int]:
    return max(round(height * down), 1), max(round(width * across), 1)
