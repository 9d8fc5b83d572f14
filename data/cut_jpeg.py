"""JPEG files that lack their last bytes: how much of the picture is lost, and the bytes that decode to the rest."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

START, END = b"\xff\xd8", b"\xff\xd9"
"""The markers around a JPEG file."""

FILLERS = (b"\x00", b"\x55", b"\x12\x34\x9c")
"""Bytes in place of the missing ones; what differs between them is what the file does not say."""

USABLE = 0.02
"""Largest part of a picture that may be lost: the last row of blocks or less. Cuts of 20 bytes cost 0.001."""

_SCAN, _TABLES_END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


def complete_jpeg(data: bytes) -> tuple[bytes, float] | None:
    """Bytes that decode to all that is left of a cut-off JPEG file, and the part of its pixels that is lost.

    Returns:
        None: no JPEG, damaged in another way, or more than `USABLE` of it is lost.
    """
    if not data.startswith(START) or not _has_every_scan(data):
        return None
    kept = data.rstrip(b"\xff")  # half a marker
    try:
        pictures = [
            _decode(kept + END),
            *(_decode(kept + filler * (len(kept) // len(filler)) + END) for filler in FILLERS),
        ]
    except Exception:  # Pillow's parsers raise nearly anything on damaged bytes
        return None
    lost = np.zeros(pictures[0].shape[:2], bool)
    for picture in pictures[1:]:
        lost |= (picture != pictures[0]).any(axis=2)
    share = float(lost.mean())
    return (kept + END, share) if share <= USABLE else None


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image).reshape(image.height, image.width, -1)


def _has_every_scan(data: bytes) -> bool:
    """Whether the last scan has begun: a progressive file sends each coefficient in several, coarse to fine.

    ITU T.81, B.2.3: a scan names its components, the coefficients Ss to Se and the bit Al that it goes down to.
    """
    components: set[int] = set()
    fine: set[tuple[int, int]] = set()
    for marker, body in _segments(data):
        if marker in (0xC0, 0xC1, 0xC2) and len(body) > 5:
            components = set(body[6 : 6 + 3 * body[5] : 3])
        elif marker == _SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if bits & 15 == 0:
                scanned = body[1 : 1 + 2 * body[0] : 2]
                fine.update((component, index) for component in scanned for index in range(first, last + 1))
    return bool(components) and all((component, index) in fine for component in components for index in range(64))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker segments of a JPEG file, (marker, content), up to its end or the first one that is cut off."""
    position = data.find(b"\xff", len(START))
    while 0 <= position < len(data) - 1:
        marker = data[position + 1]
        if marker == _TABLES_END:
            return
        if marker in _ALONE or marker in (0x00, 0xFF):  # stuffed bytes of a scan, fill bytes
            position = data.find(b"\xff", position + (1 if marker == 0xFF else 2))
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) < length - 2:
            return
        yield marker, body
        position = data.find(b"\xff", position + 2 + length)
