"""Frames for detect.py, one after another, from whatever --source names; and a thread that prepares them ahead."""

from __future__ import annotations

import base64
import logging
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TypeVar, cast

import numpy as np

from data.images import decode_image, read_image
from data.media.find import Media, find_media, is_url
from data.media.video import VideoReader, breaks_off
from utils.files import NOT_REGULAR, open_regular
from utils.text import first_line, printable

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECONNECT_DELAYS_S = (1, 2, 4, 8, 16)
"""Waits before each new attempt to reach a lost camera or stream; after the last it counts as gone."""
_TIMEOUT_S = 10.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        index: position in its source, from 0; always 0 for an image.
        time: seconds from the start of its source (of the clock, for cameras and streams).
        media: where it comes from.
        taken: when it was read, as `time.monotonic()` counts; how old a camera's frame is.
    """

    image: np.ndarray
    index: int
    time: float
    media: Media
    taken: float = field(default_factory=monotonic)

    @property
    def source(self) -> str:
        """The image or video file, the URL without user and password, or the number of the camera."""
        return self.media.source


class Source:
    """Iterable over the frames of several media; unreadable media are skipped with a warning.

    Args:
        media: in the order in which they are shown.
        frame_step: of videos, cameras and streams, every so manieth frame is given; it keeps its index and time.
    """

    def __init__(self, media: tuple[Media, ...], *, frame_step: int = 1) -> None:
        self.media = media
        self.frame_step = frame_step
        self.skipped: list[str] = []
        """One message for each medium that could not be read to its end."""
        self.reconnects = 0
        """How often a lost camera or stream was reached again."""
        self._stopped = threading.Event()

    def expected_frames(self) -> int | None:
        """Expected number of frames, by the videos' headers; None if unknown, as of a camera or stream."""
        if any(media.kind == "live" for media in self.media):
            return None
        total = 0
        for media in self.media:
            frames = _header_frames(media) if media.kind == "video" else 1
            if frames is None:
                return None
            total += -(-frames // self.frame_step) if media.kind == "video" else frames
        return total

    def stop(self) -> None:
        """End the iteration, in whichever thread it runs, before the next frame."""
        self._stopped.set()

    def skip(self, message: str) -> None:
        """Note something that could not be read."""
        self.skipped.append(printable(message))
        logger.warning("skipped: %s", printable(message))

    def __iter__(self) -> Iterator[Frame]:
        frames = {"image": _image_frames, "video": self._video_frames, "live": self._live_frames}
        for media in self.media:
            try:
                for frame in frames[media.kind](media):
                    if self._stopped.is_set():
                        return
                    yield frame
            except ValueError as error:
                message = str(error)
                named = message.startswith((media.source, printable(media.source)))
                self.skip(message if named else f"{media.source}: {message}")

    def _video_frames(self, media: Media) -> Iterator[Frame]:
        reader = open_reader(media)
        media = self._paced(media, reader)
        count, end = 0, 0.0
        try:
            while (item := reader.read(wanted=count % self.frame_step == 0)) is not None:
                if count % self.frame_step == 0:
                    yield Frame(item[0], reader.position, item[1], media)
                if self._stopped.is_set():
                    return
                count, end = count + 1, item[1]
        finally:
            reader.close()
        if count == 0:
            raise ValueError("no frame can be decoded; play the file to see whether it is damaged")
        for problem in _losses(media, reader, count, end):
            logger.warning("%s: %s", printable(media.source), problem)

    def _live_frames(self, media: Media) -> Iterator[Frame]:
        opened = open_reader(media)
        if opened.frames is not None:  # a file behind a URL
            opened.close()
            yield from self._video_frames(replace(media, kind="video"))
            return
        media, reader = self._paced(media, opened), cast(VideoReader | None, opened)
        start, index, failures = monotonic(), 0, 0
        try:
            while not self._stopped.is_set():
                wanted = index % self.frame_step == 0
                item = reader.read(wanted=wanted) if reader is not None else None
                if item is not None:
                    self.reconnects += failures > 0
                    if wanted:
                        yield Frame(item[0], index, monotonic() - start, media)
                    index, failures = index + 1, 0
                    continue
                if reader is not None:
                    reader.close()
                if failures == len(RECONNECT_DELAYS_S):
                    raise ValueError(f"lost after {index} frames, and {failures} attempts to reach it again failed")
                delay = RECONNECT_DELAYS_S[failures]
                failures += 1
                logger.warning("%s: no frames; attempt %d to reach it again in %g s", media.source, failures, delay)
                self._stopped.wait(delay)
                reader = _try_open(media)
        finally:
            if reader is not None:
                reader.close()

    def _paced(self, media: Media, reader: VideoReader) -> Media:
        """A video or stream that is open, with the rate of the frames that are given."""
        return replace(media, fps=reader.fps and reader.fps / self.frame_step)


def open_source(*specs: str, frame_step: int = 1) -> Source:
    """The frames of the values of --source (see `find_media`); values that name nothing are skipped with a warning."""
    media: list[Media] = []
    problems: list[str] = []
    for spec in specs:
        try:
            media += find_media(spec)
        except ValueError as error:
            problems.append(str(error))
    source = Source(tuple(media), frame_step=frame_step)
    for problem in problems:
        source.skip(problem)
    return source


def _image_frames(media: Media) -> Iterator[Frame]:
    location = str(media.location)
    if not is_url(location):
        yield Frame(read_image(Path(location)), 0, 0.0, media)
        return
    try:
        data = _fetch(media)
    except OSError as error:
        raise ValueError(f"cannot be fetched ({getattr(error, 'reason', None) or error})") from None
    yield Frame(decode_image(data, name=media.source), 0, 0.0, media)


def _fetch(media: Media, size: int | None = None) -> bytes:
    """What is behind a URL, or its first `size` bytes.

    Raises:
        OSError: no answer, or one that breaks off.
    """
    request = urllib.request.Request(media.source)
    if user := urllib.parse.unquote(urllib.parse.urlsplit(str(media.location)).netloc.rpartition("@")[0]):
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return answer.read(size)
    except OSError:
        raise
    except Exception as error:  # http.client's own kinds
        raise OSError(first_line(error)) from None


def _header_frames(media: Media) -> int | None:
    reader = _try_open(media)
    if reader is None:
        return 0
    reader.close()
    return reader.frames


def _try_open(media: Media) -> VideoReader | None:
    try:
        return open_reader(media)
    except ValueError:
        return None


def open_reader(media: Media) -> VideoReader:
    """A reader of a video, camera or stream.

    Raises:
        ValueError: it cannot be opened, or is a playlist that --source does not name itself: a file in a folder of
            videos must not make other files be read, or addresses asked, and no more a server in a list.
    """
    if isinstance(media.location, str) and not media.asked_for and _is_text(media):
        raise ValueError("a text, such as a playlist that names other files; to follow it, give it as --source itself")
    return VideoReader(media.location, timeout_s=_TIMEOUT_S)


def _is_text(media: Media) -> bool:
    """Whether a file, or what is behind a URL, begins as a text does; every video has other bytes there.

    Raises:
        ValueError: a pipe or a device.
    """
    location = str(media.location)
    head = b""
    try:
        if not is_url(location):
            with open_regular(Path(location)) as file:
                head = file.read(512)
        elif location.lower().startswith(("http://", "https://")):
            head = _fetch(media, 512)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror == NOT_REGULAR:
            raise ValueError(NOT_REGULAR) from None
        return False  # opening it says why
    return bool(head) and not re.search(rb"[^\t\n\f\r\x20-\xff]", head)


def _losses(media: Media, reader: VideoReader, count: int, end: float) -> Iterator[str]:
    """What of a video that was read to its end could not be.

    Args:
        count: frames read; end: time of the last one.
    """
    lost = reader.position + 1 - count
    if lost:
        times = ", ".join(f"{moment:.1f}" for moment in reader.damage[:5])
        more = ", ..." if len(reader.damage) > 5 else ""
        many = "1 frame" if lost == 1 else f"{lost} frames"
        yield f"damaged: {many} near {times}{more} s cannot be decoded; the rest is used"
    if reader.frames and reader.fps:  # hints: AVI counts dropped frames, and the rate of many is no constant
        missing = min(reader.frames - reader.position, reader.frames - float(end * reader.fps)) - 1
        local = not is_url(str(media.location)) and not _is_text(media)
        few = reader.frames > reader.position + 1 and local and breaks_off(str(media.location), end)
        if missing > 2 + 0.02 * reader.frames or few:
            yield f"ends after {count} frames, its header promises {reader.frames}; the file is cut off or damaged"
