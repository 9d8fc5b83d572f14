"""What detect.py writes: drawings, YOLO rows, JSON files and crops, in a thread beside the inference."""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.media.find import Media
from data.media.sources import Frame
from data.media.video import NOMINAL_FPS
from data.media.video_writer import VideoWriter
from utils.boxes import xyxy_to_cxcywh
from utils.draw import draw_detections
from utils.files import claim
from utils.structures import Detections
from utils.text import class_name, printable, to_json
from utils.timings import Timings

logger = logging.getLogger(__name__)

# Drawn lines are thin and coloured, so JPEG keeps its colour at full resolution.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_ENCODINGS: dict[str, tuple[int, ...]] = {
    ".jpg": _JPEG, ".jpeg": _JPEG, ".jpe": _JPEG, ".png": (), ".bmp": (), ".tif": (), ".tiff": (),
    ".webp": (cv2.IMWRITE_WEBP_QUALITY, 95),
}  # fmt: skip
_WAITING = 16
"""Largest number of frames that wait for the disk; inference then waits too."""


@dataclass(frozen=True)
class Outputs:
    """What to write.

    Args:
        drawings: images and videos with boxes, under their own names.
        txt: labels/NAME.txt with YOLO rows, for video one file a frame: labels/NAME_000000.txt.
        confidence: the score as sixth number of a YOLO row.
        json: detections.json.
        jsonl: detections.jsonl, the same entries a line each.
        crops: crops/CLASS/NAME_1.jpg, each detection cut out, numbered by its rank.
    """

    drawings: bool = True
    txt: bool = False
    confidence: bool = False
    json: bool = False
    crops: bool = False
    jsonl: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is to be written."""
        return self.drawings or self.txt or self.json or self.jsonl or self.crops


class Recorder:
    """Writes frames and their detections in a thread of its own; use it as a context.

    Files with the same name from different folders become NAME.jpg, NAME-2.jpg, ..., which the log tells; images that
    OpenCV cannot write (GIF) become NAME.png. Where names differ in their suffix alone, labels, crops and such a PNG
    keep it: labels/x.jpg.txt and labels/x.webp.txt.

    Args:
        folder: exists, and is empty.
        names: class names by index.
        outputs: what to write.
        media: all that will come, as far as it is known.
        timings: where the times of 'draw' and 'encode' are noted.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        outputs: Outputs,
        *,
        media: Sequence[Media] = (),
        timings: Timings | None = None,
    ) -> None:
        self._timings = timings or Timings()
        self.folder, self.names, self.outputs = folder, tuple(names), outputs
        images = {each.name.casefold() for each in media if each.kind == "image"}
        self._sharing = Counter(Path(name).stem for name in images)
        """How many images of different names have a name without suffix."""
        self._first: dict[str, str] = {}
        """The first image of a name without suffix, for those that come unannounced."""
        self._taken: set[str] = set()
        self._media: Media | None = None
        self._drawing, self._stem = folder, ""
        self._video: VideoWriter | None = None
        self._encoder = ""
        self._json = []
        if outputs.json:
            self._json.append(_JsonFile(folder / "detections.json", "[", ",\n", "\n]\n"))
        if outputs.jsonl:
            self._json.append(_JsonFile(folder / "detections.jsonl", "", "\n", "\n"))
        self._waiting: queue.Queue[tuple[Frame, Detections] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def put(self, frame: Frame, detections: Detections) -> None:
        """Hand over a frame and its detections, boxes in its own pixels; frames of one source in their order.

        Raises:
            OSError, ValueError: an earlier frame could not be written.
        """
        self._waiting.put((frame, detections))
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write the frames that still wait and finish every file."""
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except (OSError, ValueError):
            if error is None:  # otherwise the first error is more useful
                raise

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None:
                with self._keeping_error():
                    self._write(*item)
        with self._keeping_error():
            self._end_media()
        for file in self._json:
            with self._keeping_error():
                file.close()

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """The first error is kept for the thread that hands frames over."""
        try:
            yield
        except Exception as error:
            self._error = self._error or error

    def _write(self, frame: Frame, detections: Detections) -> None:
        if frame.media is not self._media:
            self._end_media()
            self._begin_media(frame.media)
        if self.outputs.drawings:
            self._draw(frame, detections)
        stem = self._stem if frame.media.kind == "image" else f"{self._stem}_{frame.index:06d}"
        if self.outputs.txt:
            rows = yolo_rows(detections, frame.image.shape[:2], confidence=self.outputs.confidence)
            path = self._claim(f"labels/{stem}.txt", of_frame=frame.media.kind != "image")
            path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        if self.outputs.crops:
            self._cut(frame, detections, stem)
        for file in self._json:
            file.append(json_entries(frame, detections, self.names))

    def _begin_media(self, media: Media) -> None:
        self._media = media
        name = Path(media.name)
        stem, folded = name.stem.casefold(), name.name.casefold()
        others = self._sharing[stem] > 1 or self._first.setdefault(stem, folded) != folded
        shared = media.kind == "image" and others
        if media.kind == "image" and name.suffix.lower() not in _ENCODINGS:
            self._drawing = self._claim(f"{name.name}.png" if shared else f"{name.stem}.png")
            self._stem = self._drawing.stem
        else:
            self._drawing = self._claim(name.name)
            self._stem = self._drawing.name if shared else self._drawing.stem
        if self._drawing.name != name.name:
            logger.info("%s: written as %s", printable(media.source), printable(self._drawing.name))

    def _end_media(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close()

    def _draw(self, frame: Frame, detections: Detections) -> None:
        with self._timings.measure("draw"):
            drawn = draw_detections(frame.image, detections.boxes, detections.labels, detections.scores, self.names)
        with self._timings.measure("encode"):
            self._encode(frame, drawn)

    def _encode(self, frame: Frame, drawn: np.ndarray) -> None:
        if frame.media.kind == "image":
            write_image(self._drawing, drawn)
            return
        if self._video is None:
            fps, live = frame.media.fps or NOMINAL_FPS, frame.media.kind == "live"
            height, width = drawn.shape[:2]
            self._video = VideoWriter(self._drawing, fps, height, width, on_grid=live)
            if not self._encoder:
                self._encoder = self._video.encoder
                logger.info("Video encoder: %s", self._encoder)
        self._video.write(drawn, frame.time)

    def _cut(self, frame: Frame, detections: Detections, stem: str) -> None:
        height, width = frame.image.shape[:2]
        boxes_labels = zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True)
        for rank, (box, label) in enumerate(boxes_labels, start=1):
            x1, y1 = max(int(box[0]), 0), max(int(box[1]), 0)
            crop = frame.image[y1 : min(-int(-box[3] // 1), height), x1 : min(-int(-box[2] // 1), width)]
            if crop.size:
                folder = re.sub(r'[\\/:*?"<>|\x00-\x1f\ud800-\udfff]', "_", class_name(self.names, label)).strip(
                    " ."
                ) or str(label)
                path = self._claim(f"crops/{folder}/{stem}_{rank}.jpg", of_frame=frame.media.kind != "image")
                write_image(path, crop)

    def _claim(self, name: str, *, of_frame: bool = False) -> Path:
        """A path below the folder that this run has not used yet, without regard to case.

        Those of the frames of a video are not remembered, as a stream has no end; what is on the disk is seen.
        """
        path = claim(self.folder / name, set() if of_frame else self._taken)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _JsonFile:
    """Entries on disk, frame by frame: a night of video does not fit into memory, and a run may be killed.

    All of a frame is handed to the system in one piece, so that the file can be read at any time, up to a kill -9. A
    frame that does not fit on the disk leaves nothing.

    Args:
        path: the file.
        before, between, after: text at the start, between two entries, and at the end.
    """

    def __init__(self, path: Path, before: str, between: str, after: str) -> None:
        self.path, self._file = path, path.open("wb", buffering=0)
        self._before, self._between, self._after = before, between, after
        self._separator = f"{before}\n" if before else ""
        self._end = 0
        if before:
            self._write(before)

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        if not entries:
            return
        text = self._separator + self._between.join(map(to_json, entries))
        self._file.seek(self._end)
        try:
            self._write(text)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
                if self._end or self._before:
                    self._write("" if self._end else self._before)
            raise _unwritten(self.path, error) from None
        self._end += len(text.encode())
        self._separator = self._between

    def _write(self, text: str) -> None:
        left = memoryview(f"{text}{self._after}".encode())
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> None:
        self._file.close()


def json_entries(frame: Frame, detections: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """The detections of a frame as detections.json holds them, best score first; boxes to 1/1000 pixel."""
    entries = replace(detections, class_names=tuple(names)).to_dicts()
    return [{"source": frame.source, "frame": frame.index, **entry} for entry in entries]


def yolo_rows(detections: Detections, size: tuple[int, int], *, confidence: bool) -> list[str]:
    """'class cx cy w h' a detection, as fractions of an image of `size` (height, width), with the score if wanted."""
    height, width = size
    boxes = xyxy_to_cxcywh(detections.boxes.astype(np.float64)) / np.array([width, height, width, height])
    rows = []
    for box, label, score in zip(boxes, detections.labels.tolist(), detections.scores.tolist(), strict=True):
        numbers = [*box, score] if confidence else box
        rows.append(" ".join([str(label), *(f"{number:.6f}" for number in numbers)]))
    return rows


def write_image(path: Path, image: np.ndarray) -> None:
    """An (H, W, 3) uint8 RGB image into a file whose suffix OpenCV can write.

    Raises:
        OSError: the file cannot be written.
    """
    suffix, (height, width) = path.suffix.lower(), image.shape[:2]
    try:
        success, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _ENCODINGS[suffix])
    except cv2.error:
        success = False
    if not success:
        raise OSError(f"{path}: an image of {width} x {height} pixels cannot be written as {suffix}")
    try:
        path.write_bytes(data.tobytes())  # OpenCV itself cannot open every path on Windows
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(f"{path}: cannot be written ({error.strerror or error})")
