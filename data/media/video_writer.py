"""Video output by PyAV, as MP4 that every browser plays."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from utils.files import move_into_place

# (encoder, options), best first. Browsers play all of them in MP4; 'mp4v', which OpenCV can write, they do not. Of
# libx264's presets this is the one that takes no longer than the network of a small model (docs/inference.md).
ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "ultrafast", "crf": "23", "coder": "ac"}),
    ("libopenh264", {"b": "4M"}),
    ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "7", "row-mt": "1", "crf": "30", "b": "0"}),
)
_IN_FRAGMENTS = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000", "flush_packets": "1",
}  # fmt: skip
_CHROMA = np.array([[-0.148223, -0.290993, 0.439216, 128], [0.439216, -0.367788, -0.071427, 128]], np.float32)
"""RGB -> Cb and Cr."""
_FASTSTART = {"movflags": "+faststart"}


class VideoWriter:
    """An MP4 file, H.264 where the installed PyAV has it, that starts playing before it is loaded whole.

    While it is being written it is in fragments, and can be played as far as it is there, even if the program is
    killed; `close` joins them. What the encoder still holds, one or two seconds, is not there yet.

    Frames on the grid of `fps` are written exactly on it; others (variable rate, cameras) keep their own times.

    Args:
        path: the file, which must end in .mp4.
        fps: frame rate.
        height, width: pixels of the frames; odd sizes grow by one, as 4:2:0 colour needs even ones.
        on_grid: move every frame to the nearest free tick of the grid (cameras, whose times jitter).
    Raises:
        ValueError: PyAV was built without any encoder for browsers.
    """

    def __init__(self, path: Path, fps: Fraction, height: int, width: int, *, on_grid: bool = False) -> None:
        encoder, options = _choose_encoder()
        options = {**options, "threads": str(cv2.getNumThreads())}  # one setting for both
        self.encoder = ", ".join([encoder, *(f"{key} {options[key]}" for key in ("preset", "crf") if key in options)])
        """What writes the pictures, for the output."""
        self.path, self.height, self.width = path, height, width
        self._per_frame = fps.denominator * math.ceil(10_000 / fps.numerator)
        self._base = 1 / (fps * self._per_frame)
        self._fps, self._on_grid = fps, on_grid
        self._start: float | None = None
        self._last = -1
        self._container = av.open(os.path.abspath(path), "w", format="mp4", options=_IN_FRAGMENTS)
        self._stream = cast(VideoStream, self._container.add_stream(encoder, rate=fps, options=dict(options)))
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._base

    def write(self, image: np.ndarray, time: float) -> None:
        """Append a frame (H, W, 3) uint8 RGB; `time` in seconds on any clock that starts before the first frame.

        A frame of another size (a stream that changed) is scaled to the first one's.

        Raises:
            OSError: the file cannot be written.
        """
        if image.shape[:2] != (self.height, self.width):
            image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
        if self.height % 2 or self.width % 2:
            image = cv2.copyMakeBorder(image, 0, self.height % 2, 0, self.width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(_planes(image), format="yuv420p")
        frame.pts, frame.time_base = self._tick(time), self._base
        self._mux(frame)

    def close(self) -> None:
        """Write what the encoder still holds, and the index that players need.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            if self._last >= 0:
                self._mux(None)
        finally:
            with self._named_errors():
                self._container.close()
        if self._last >= 0:
            with self._named_errors():
                _join_fragments(self.path, self._fps)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with self._named_errors():
            for packet in self._stream.encode(frame):
                packet.duration = packet.duration or self._per_frame
                self._container.mux(packet)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{self.path}: cannot be written ({reason})") from None

    def _tick(self, time: float) -> int:
        """The frame's time in ticks: on the grid of the frame rate if within a millisecond, the resolution of MKV."""
        self._start = time if self._start is None else self._start
        elapsed = time - self._start
        tick, nearest = round(elapsed / self._base), round(elapsed * self._fps) * self._per_frame
        if self._on_grid and self._last >= 0:
            nearest = max(nearest, self._last + self._per_frame)
        if self._on_grid or abs(tick - nearest) * self._base <= Fraction(11, 10_000):
            tick = nearest
        self._last = max(tick, self._last + 1)
        return self._last


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB with even sides -> (H * 3 / 2, W), the planes of 'yuv420p': BT.601, of limited range.

    A chroma value is the mean of its four pixels: with the first of them alone, as OpenCV takes it, thin lines break.
    """
    height, width = image.shape[:2]
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(half, _CHROMA)
    planes[height:].reshape(2, height // 2, width // 2)[:] = chroma.transpose(2, 0, 1)
    return planes


def _join_fragments(path: Path, fps: Fraction) -> None:
    """Write an MP4 file of fragments again as an ordinary one, with its index at the start; nothing is encoded anew."""
    path = path.absolute()
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.tmp")  # names have a longest length
    try:
        with av.open(str(path)) as source, av.open(str(temporary), "w", format="mp4", options=_FASTSTART) as target:
            pieces = source.streams.video[0]
            whole = target.add_stream_from_template(pieces)
            whole.time_base = pieces.time_base
            per_frame = round(1 / (fps * whole.time_base))
            start: int | None = None
            for packet in source.demux(pieces):
                if packet.dts is None or packet.pts is None:
                    continue
                start = packet.pts if start is None else start  # the first packet is the first picture
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, whole
                packet.duration = packet.duration or per_frame
                target.mux(packet)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _choose_encoder() -> tuple[str, dict[str, str]]:
    for encoder, options in ENCODERS:
        if encoder in av.codecs_available:
            return encoder, options
    wanted = ", ".join(name for name, _ in ENCODERS)
    raise ValueError(f"PyAV {av.__version__} was built without {wanted}; the one from 'pip install av' has them")
