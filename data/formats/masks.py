"""The boxes of COCO's outlines: polygons, and run lengths (RLE) as a list or as the text of COCO's own coding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_LONGEST = 2**31
"""More pixels than an image has."""


def outline_box(segmentation: Any) -> list[float] | None:
    """[x, y, width, height] around the outline of an annotation; None if it has none that can be read, or no area."""
    box = _polygon_box(segmentation) if isinstance(segmentation, list) else _mask_box(segmentation)
    return box if box is not None and box[2] > 0 and box[3] > 0 else None


def _polygon_box(polygons: list[Any]) -> list[float] | None:
    numbers = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            return None
        numbers += polygon
    try:
        values = [float(number) for number in numbers if type(number) in (int, float)]
    except OverflowError:  # an integer of hundreds of digits
        return None
    if len(values) != len(numbers) or not values or not all(map(math.isfinite, values)):
        return None
    xs, ys = values[::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _mask_box(mask: Any) -> list[float] | None:
    size, counts = (mask.get("size"), mask.get("counts")) if isinstance(mask, dict) else (None, None)
    if isinstance(counts, str):
        counts = _decode(counts)
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list):
        return None
    if any(type(number) is not int or not 0 <= number < _LONGEST for number in (*size, *counts)):
        return None
    height, width = size
    return _runs_box(counts, height) if sum(counts) == height * width else None


def _runs_box(counts: Sequence[int], height: int) -> list[float] | None:
    """The box of runs down the columns: background and object in turn, background first."""
    left = top = _LONGEST
    right = bottom = end = 0
    for number, count in enumerate(counts):
        start, end = end, end + count
        if number % 2 == 0 or not count:
            continue
        first, last = start // height, (end - 1) // height
        left, right = min(left, first), max(right, last + 1)
        if first == last:
            top, bottom = min(top, start % height), max(bottom, (end - 1) % height + 1)
        else:
            top, bottom = 0, height
    return [float(left), float(top), float(right - left), float(bottom - top)] if right else None


def _decode(text: str) -> list[int] | None:
    """Run lengths from COCO's text: five bits a character and a bit for 'more follows', as a signed difference.

    From the fourth on a number is the difference to the one two places before (pycocotools, maskApi.c, rleFrString).
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    return counts if not shift else None
