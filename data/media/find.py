"""What the values of detect.py's --source name: images, videos, cameras and streams."""

from __future__ import annotations

import glob
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal

from data.images import IMAGE_SUFFIXES
from data.media.video import VIDEO_SUFFIXES
from utils.config import from_home, nearest
from utils.files import NOT_REGULAR

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Media:
    """One source of frames: an image, a video, a camera or a stream.

    Args:
        source: path as found, URL (without user and password) or camera number; what detections.json says.
        name: file name for outputs, without folder: the image's own; NAME.mp4 for video NAME.*, cameras and streams.
        kind: 'image' has one frame; 'video' ends; 'live' (camera, stream) goes on until it is stopped.
        location: what to open: path, URL or camera number.
        fps: frame rate of a video or stream, known once it is open and states one.
        asked_for: --source names this file or URL itself, not a folder, glob or list that it is in.
    """

    source: str
    name: str
    kind: Literal["image", "video", "live"]
    location: str | int
    fps: Fraction | None = None
    asked_for: bool = False


def find_media(spec: str) -> list[Media]:
    """What one value of --source names; files are not opened.

    It is an image or video file; a folder (its images and videos in natural order, subfolders left out); a glob
    ('photos/**/*.jpg', quoted); a .txt list (on each line a path, relative to the list, or a URL; '#' starts a
    comment); the number of a camera; or a URL (rtsp://, http://, ...). An existing file of that exact name is never
    taken for a glob, and './0' is a file, not a camera.

    Raises:
        ValueError: it names nothing, or a list cannot be read.
    """
    if spec.isascii() and spec.isdigit():
        return [Media(spec, f"camera{int(spec)}.mp4", "live", int(spec))]
    if is_url(spec):
        return [replace(_url(spec), asked_for=True)]
    path = from_home(spec)
    if path.is_dir():
        deeper = path / "**" / "*"
        return _files(path.iterdir(), f"{spec}: no image or video in this folder; for its subfolders give '{deeper}'")
    if path.is_file():
        return _list(path) if path.suffix.lower() == ".txt" else [replace(_file(path), asked_for=True)]
    if glob.has_magic(spec):
        return _files(map(Path, glob.glob(str(path), recursive=True)), f"{spec}: no image or video matches")
    if path.exists():
        raise ValueError(f"{spec}: {NOT_REGULAR}")
    near = nearest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else None
    hint = f"; did you mean '{path.parent / near}'?" if near else ""
    raise ValueError(f"{spec}: no such file or folder{hint}")


def is_url(text: str) -> bool:
    """Whether a text begins like 'rtsp://'."""
    return _URL.match(text) is not None


def natural_key(path: Path) -> tuple[tuple[object, ...], ...]:
    """Sorts 'frame2' before 'frame10', folder by folder.

    Text and numbers alternate within a part of the path, so that they never meet in a comparison.
    """
    parts = (re.split(r"(\d+)", part.casefold()) for part in path.parts)
    return tuple(tuple(int(text) if i % 2 else text for i, text in enumerate(part)) for part in parts)


def _files(paths: Iterable[Path], message: str) -> list[Media]:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    known = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    if not known:
        raise ValueError(f"{message} (known: {' '.join(sorted(suffixes))})")
    return [_file(path) for path in sorted(known, key=natural_key)]


def _file(path: Path) -> Media:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Media(str(path), f"{path.stem}.mp4", "video", str(path))
    return Media(str(path), path.name, "image", str(path))


def _list(path: Path) -> list[Media]:
    try:
        lines = re.split("[\r\n]+", path.read_text(encoding="utf-8-sig"))  # names may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a list of paths ({error})") from None
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        raise ValueError(f"{path}: the list is empty; expected a path or URL on each line")
    return [_url(entry) if is_url(entry) else _file(path.parent / from_home(entry)) for entry in entries]


def _url(url: str) -> Media:
    parts = urllib.parse.urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    shown = url.replace(f"{user}@", "", 1) if user else url
    last = PurePosixPath(urllib.parse.unquote(parts.path))
    if last.suffix.lower() in IMAGE_SUFFIXES:
        return Media(shown, _safe(last.name), "image", url)
    if parts.scheme.lower() in ("http", "https") and last.suffix.lower() in VIDEO_SUFFIXES:
        return Media(shown, f"{_safe(last.stem)}.mp4", "video", url)
    return Media(shown, f"{_safe(f'{parts.hostname}{parts.path}')}.mp4", "live", url)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "stream"
