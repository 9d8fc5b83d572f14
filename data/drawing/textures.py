"""Colours and textures in whole numbers: 0 to 255 for a channel, weights out of 256 for a pattern."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.drawing.figures import ONE, TURN, cosine, sine
from data.drawing.stream import Stream

TEXTURES = ("plain", "gradient", "noise", "stripes", "checker", "dots")

Colour = tuple[int, int, int]


def contrast(one: Colour, other: Colour) -> int:
    """How different two colours look, 0 to 255: weighted as the eye weighs red, green and blue."""
    return sum(weight * abs(a - b) for weight, a, b in zip((2, 4, 1), one, other, strict=True)) // 7


def pick_colour(stream: Stream, low: int = 0, high: int = 255) -> Colour:
    """Three random channels, low <= value <= high."""
    return stream.between(low, high), stream.between(low, high), stream.between(low, high)


def colour_beside(stream: Stream, others: Sequence[Colour], least: int) -> Colour:
    """A random colour that contrasts with each of the others by `least`, or the best of 24."""
    candidates = []
    for _ in range(24):
        colour = pick_colour(stream)
        smallest = min(contrast(colour, other) for other in others)
        if smallest >= least:
            return colour
        candidates.append((smallest, colour))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def shade(stream: Stream, colour: Colour, most: int) -> Colour:
    """The colour moved by up to `most` in each channel."""
    red, green, blue = (min(max(value + stream.between(-most, most), 0), 255) for value in colour)
    return red, green, blue


def muted(colour: Colour) -> Colour:
    """The colour half way to the grey of its brightness."""
    grey = (2 * colour[0] + 4 * colour[1] + colour[2]) // 7
    return (colour[0] + grey) // 2, (colour[1] + grey) // 2, (colour[2] + grey) // 2


def blend(below: np.ndarray | Colour, above: np.ndarray | Colour, weight: np.ndarray, *, bits: int) -> np.ndarray:
    """(h, w, 3) int32 between two colours or pictures: weight 0 is `below`, weight 2**bits is `above`."""
    below, above = np.asarray(below, dtype=np.int32), np.asarray(above, dtype=np.int32)
    return below + (((above - below) * weight[..., None] + (1 << bits >> 1)) >> bits)


def _noise(stream: Stream, height: int, width: int, cell: int) -> np.ndarray:
    """(height, width) int32, 0 to 256: random values a cell apart with straight slopes between them."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = stream.grid(rows, columns, 257)
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    top, left = y // cell, x // cell
    down, right = (y % cell)[:, None], (x % cell)[None, :]
    lines = lattice[top] * (cell - down) + lattice[top + 1] * down
    return (lines[:, left] * (cell - right) + lines[:, left + 1] * right) // (cell * cell)


def texture(stream: Stream, kind: str, height: int, width: int, period: int) -> np.ndarray:
    """(height, width) int32 weights, 0 to 256, of a second colour: a pattern at a random angle.

    Args:
        period: pixels from one stripe, tile, dot or grain to the next.
    """
    if kind == "plain":
        return np.zeros((height, width), dtype=np.int32)
    if kind == "noise":
        return _noise(stream, height, width, period)
    angle = stream.below(TURN)
    x = np.arange(width, dtype=np.int32)[None, :] - width // 2
    y = np.arange(height, dtype=np.int32)[:, None] - height // 2
    u = x * cosine(angle) + y * sine(angle)
    v = y * cosine(angle) - x * sine(angle)
    if kind == "gradient":
        return np.clip(128 + u * 224 // (max(height, width) * ONE), 0, 256)
    half, shift = period * ONE // 2, stream.below(period * ONE)
    if kind == "stripes":
        return ((u + shift) // half % 2) * 256
    if kind == "checker":
        return ((u + shift) // half % 2 ^ (v + shift) // half % 2) * 256
    if kind == "dots":
        du, dv = (((along + shift) % (2 * half) - half) >> 8 for along in (u, v))
        return (du * du + dv * dv < (half >> 8) ** 2 // 2).astype(np.int32) * 256
    raise ValueError(f"no texture '{kind}'")
