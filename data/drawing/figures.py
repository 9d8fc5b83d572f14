"""The shapes of the embedded data set as stencils, and which pixels one covers when it is moved, turned, stretched."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NAMES = ("arrow", "circle", "crescent", "cross", "heart", "hexagon", "ring", "square", "star", "triangle")
"""The classes; label i is `NAMES[i]`."""

TURN = 256
"""Steps of a full rotation."""

ONE = 1 << 14
"""1.0 in sines and cosines."""

EIGHTHS = 8
"""Positions are counted in eighths of a pixel."""

FULL, FULL_BITS = 16, 4
"""Coverage of a pixel that lies wholly inside a figure, 4 x 4 points; and its logarithm."""

_GRID = 250  # cells along the side of a stencil
_REACH = 960  # half the side of a figure in stencil units; the stencil ends at 1000, and its rim stays empty
_CELLS = _GRID * _REACH // 1000  # cells along the side of a figure
_BITS = 15  # fraction of a cell's number; even a line of 1 x 160 pixels stays within 32 bits

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


@functools.cache
def sine(angle: int) -> int:
    """Sine of angle / 256 turns, times 2**14. No entry is near a half, so that the last bit of a libm cannot matter."""
    return round(math.sin(2 * math.pi * (angle % TURN) / TURN) * ONE)


def cosine(angle: int) -> int:
    """Cosine of angle / 256 turns, times 2**14."""
    return sine(angle + TURN // 4)


def _polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Even-odd rule: True where a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
        spans = (y1 > y) != (y2 > y)
        side = (x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)
        inside ^= spans & ((side < 0) == (y2 > y1))
    return inside


def _disc(x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    return x * x + y * y <= radius * radius


_HEXAGON = ((960, 0), (480, 831), (-480, 831), (-960, 0), (-480, -831), (480, -831))
_TRIANGLE = ((0, -860), (960, 800), (-960, 800))
_ARROW = ((0, -960), (760, -60), (300, -60), (300, 960), (-300, 960), (-300, -60), (-760, -60))
_STAR = (
    *((0, -960), (235, -324), (913, -297), (380, 124), (564, 777)),
    *((0, 400), (-564, 777), (-380, 124), (-913, -297), (-235, -324)),
)
_HEART_TIP = ((827, -32), (0, 920), (-827, -32), (0, -400))  # its long sides touch the two discs

_FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "arrow": lambda x, y: _polygon(x, y, _ARROW),
    "circle": lambda x, y: _disc(x, y, 940),
    "crescent": lambda x, y: _disc(x, y, 950) & ~_disc(x - 440, y, 780),
    "cross": lambda x, y: (abs(x) <= 300) & (abs(y) <= 950) | (abs(x) <= 950) & (abs(y) <= 300),
    "heart": lambda x, y: _disc(abs(x) - 450, y + 360, 500) | _polygon(x, y, _HEART_TIP),
    "hexagon": lambda x, y: _polygon(x, y, _HEXAGON),
    "ring": lambda x, y: _disc(x, y, 950) & ~_disc(x, y, 520),
    "square": lambda x, y: (abs(x) <= 800) & (abs(y) <= 800),
    "star": lambda x, y: _polygon(x, y, _STAR),
    "triangle": lambda x, y: _polygon(x, y, _TRIANGLE),
    # What only clutters the background:
    "bar": lambda x, y: (abs(x) <= _REACH) & (abs(y) <= _REACH),
    "arc": lambda x, y: _disc(x, y, 950) & ~_disc(x, y, 890) & (x > 300) & (y > -500),
}


@functools.cache
def _stencil(name: str) -> np.ndarray:
    """(_GRID, _GRID) uint8: a figure in fine cells, 1 inside, its rim empty."""
    centres = np.arange(_GRID, dtype=np.int64) * 8 - 996
    return _FIGURES[name](centres[None, :], centres[:, None]).astype(np.uint8)


@dataclass(frozen=True)
class Placement:
    """Where and how a figure lies: centre in eighths of a pixel, side lengths in pixels, angle in 256ths of a turn."""

    name: str
    x: int
    y: int
    width: int
    height: int
    angle: int

    def window(self) -> Window:
        """Whole pixels that hold the turned figure; may reach beyond the image."""
        cos, sin = abs(cosine(self.angle)), abs(sine(self.angle))
        reach_x = (self.width * cos + self.height * sin) * EIGHTHS // (2 * ONE) + EIGHTHS
        reach_y = (self.width * sin + self.height * cos) * EIGHTHS // (2 * ONE) + EIGHTHS
        x1, y1 = (self.x - reach_x) // EIGHTHS, (self.y - reach_y) // EIGHTHS
        x2, y2 = (self.x + reach_x) // EIGHTHS + 1, (self.y + reach_y) // EIGHTHS + 1
        return x1, y1, x2, y2

    def coverage(self) -> np.ndarray:
        """(h, w) int32, 0 to FULL: how many of 4 x 4 points of each pixel of the window lie in the figure."""
        x1, y1, x2, y2 = self.window()
        dx = np.arange(4 * x1, 4 * x2, dtype=np.int32)[None, :] * 2 + 1 - self.x
        dy = np.arange(4 * y1, 4 * y2, dtype=np.int32)[:, None] * 2 + 1 - self.y
        u, v = self._along_axes(dx, dy)
        column, row = (np.clip((along >> _BITS) + _GRID // 2, 0, _GRID - 1) for along in (u, v))
        inside = np.take(_stencil(self.name), row * _GRID + column)
        across = inside[:, 0::4] + inside[:, 1::4] + inside[:, 2::4] + inside[:, 3::4]
        return (across[0::4] + across[1::4] + across[2::4] + across[3::4]).astype(np.int32)

    def _along_axes(self, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances from the centre along the figure's own axes: from eighths of a pixel to cells times 2**_BITS."""
        cos, sin = (function(self.angle) * (_CELLS << _BITS) // (EIGHTHS * ONE) for function in (cosine, sine))
        u = dx * (cos // self.width) + dy * (sin // self.width)
        v = dy * (cos // self.height) - dx * (sin // self.height)
        return u, v
