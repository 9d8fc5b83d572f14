"""The pictures of the embedded data set: each a pure function of (split, number).

Nothing in this package depends on a library's random generator, on the last bit of a sine, on the order of a sum or on
rounding: all arithmetic is in integers of a named width, so that NumPy of any version on any machine draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.drawing.figures import EIGHTHS, FULL, FULL_BITS, NAMES, TURN, Placement, Window
from data.drawing.stream import Stream
from data.drawing.textures import TEXTURES, Colour, blend, colour_beside, contrast, muted, pick_colour, shade, texture

IMAGE_SIZES = (
    *((240, 320), (320, 240), (256, 320), (320, 256), (213, 320)),
    *((270, 306), (288, 288), (300, 300), (320, 320)),
)
"""(height, width) of the images, all equally frequent."""

SMALLEST, LARGEST = 12, 160
"""Length of a shape's side before it is turned and stretched."""

SMALL_AREA = 600
"""Pixels, about 24 x 24."""

LEAST_VISIBLE = (40, 70, 90)
"""Percent of its area that each object of a picture shows; every picture has one of them as its rule."""

MOST_OBJECTS, EMPTY_PERCENT = 12, 5

SEED = 1


@dataclass(frozen=True)
class Picture:
    """One picture and the objects in it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        labels: class of each object, an index of `NAMES`, in the order of drawing.
        owners: (H, W) int32: which object shows in a pixel (fills half of it or more), -1 for none.
    """

    pixels: np.ndarray
    labels: list[int]
    owners: np.ndarray

    def areas(self) -> list[int]:
        """Visible pixels of each object."""
        return _visible(self.owners, len(self.labels))

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """x, y, width, height of the smallest box round the visible pixels of each object."""
        return [_box(self.owners == index) for index in range(len(self.labels))]


def draw(split: str, number: int) -> Picture:
    """Picture `number` of a split ('train' or 'val').

    Later objects cover earlier ones. Other objects and the border together hide at most 60 % of an object (25 % of a
    small one; 10 or 30 % in tidy pictures): a placement that would hide more is drawn again. So every object in the
    picture has a box, that of its visible part.
    """
    stream = Stream(SEED, ("train", "val").index(split), number)
    height, width = stream.pick(IMAGE_SIZES)
    pixels = _background(stream, height, width)
    _add_clutter_(pixels, stream)
    owners = np.full((height, width), -1, dtype=np.int32)
    labels: list[int] = []
    areas: list[int] = []
    wanted, least = _how_many(stream), stream.pick(LEAST_VISIBLE)
    for _ in range(4 * wanted):
        if len(labels) == wanted:
            break
        label, placement = _propose(stream, height, width)
        image, part = _crop(placement.window(), height, width)
        whole = placement.coverage()
        coverage, area = whole[part], int(np.count_nonzero(whole >= FULL // 2))
        now = owners.copy()
        now[image][coverage >= FULL // 2] = len(labels)
        if _hidden_too_much(now, [*areas, area], least):
            continue
        surface = _surface(stream, pixels[image], coverage, size=min(placement.width, placement.height))
        pixels[image] = blend(pixels[image], surface, coverage, bits=FULL_BITS)
        owners = now
        labels.append(label)
        areas.append(area)
    return Picture(_photograph(stream, pixels), labels, owners)


def _how_many(stream: Stream) -> int:
    """Objects of a picture: often many, sometimes none."""
    if stream.chance(EMPTY_PERCENT):
        return 0
    return max(stream.between(1, MOST_OBJECTS), stream.between(1, MOST_OBJECTS))


def _propose(stream: Stream, height: int, width: int) -> tuple[int, Placement]:
    """A random object: its label and its place, all but a small part of it inside the image."""
    label = stream.below(len(NAMES))
    size = _size(stream)
    side_x, side_y = (size * stream.between(90, 110) // 100 for _ in range(2))
    angle = stream.below(TURN) if stream.chance(25) else stream.between(-18, 18)
    margin = size * 3 // 8
    x = stream.between(margin * EIGHTHS, (width - margin) * EIGHTHS)
    y = stream.between(margin * EIGHTHS, (height - margin) * EIGHTHS)
    return label, Placement(NAMES[label], x, y, side_x, side_y, angle)


def _size(stream: Stream) -> int:
    """SMALLEST to LARGEST on a scale of octaves, medium sizes the most frequent."""
    octaves = 256 * 3 + 171  # 12 * 2**3 * (1 + 171 / 256) = 160
    scale = (stream.between(0, octaves) + max(stream.between(0, octaves), stream.between(0, octaves))) // 2
    return (SMALLEST << scale // 256) * (256 + scale % 256) // 256


def _visible(owners: np.ndarray, count: int) -> list[int]:
    """Pixels of each of `count` objects."""
    return [int(pixels) for pixels in np.bincount((owners + 1).reshape(-1), minlength=count + 1)[1:]]


def _hidden_too_much(owners: np.ndarray, areas: Sequence[int], least: int) -> bool:
    """Whether an object shows less than `least` percent of its area, or a small one less than 75 %."""
    shown = zip(_visible(owners, len(areas)), areas, strict=True)
    return any(100 * pixels < (max(least, 75) if area < SMALL_AREA else least) * area for pixels, area in shown)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the smallest box round the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def _crop(window: Window, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a window inside the image: slices (rows, columns) of the image and of the window."""
    x1, y1, x2, y2 = window
    rows, columns = slice(max(y1, 0), min(y2, height)), slice(max(x1, 0), min(x2, width))
    return (rows, columns), (slice(rows.start - y1, rows.stop - y1), slice(columns.start - x1, columns.stop - x1))


def _background(stream: Stream, height: int, width: int) -> np.ndarray:
    """(height, width, 3) int32: one colour and shades of it in a gradient, clouds, a pattern and grain."""
    base = muted(pick_colour(stream, 20, 235))
    pixels = np.empty((height, width, 3), dtype=np.int32)
    pixels[:] = base
    for kind, period, most in (
        (stream.pick(("gradient", "gradient", "plain")), 1, 70),
        (stream.pick(("noise", "noise", "plain")), stream.between(24, 90), 60),
        (stream.pick(TEXTURES), stream.between(8, 24), 36),
        (stream.pick(("noise", "plain")), stream.between(2, 6), 30),
    ):
        second = shade(stream, base, most)
        weight = texture(stream, kind, height, width, period) * stream.between(100, 200)
        pixels = blend(pixels, second, weight, bits=16)
    return pixels


def _add_clutter_(pixels: np.ndarray, stream: Stream) -> None:
    """Draw thin lines and arcs, which are not objects, into the picture."""
    height, width = pixels.shape[:2]
    for _ in range(stream.below(9)):
        name = stream.pick(("bar", "bar", "arc"))
        length = stream.between(20, 160)
        thick = stream.between(1, 3) if name == "bar" else length
        x, y = stream.below(width * EIGHTHS), stream.below(height * EIGHTHS)
        line = Placement(name, x, y, length, thick, stream.below(TURN))
        image, part = _crop(line.window(), height, width)
        pixels[image] = blend(pixels[image], pick_colour(stream), line.coverage()[part], bits=FULL_BITS)


def _surface(stream: Stream, below: np.ndarray, coverage: np.ndarray, *, size: int) -> np.ndarray:
    """(h, w, 3) int32: an object's one or two colours, which contrast with the (h, w, 3) picture below it."""
    beside = _quarters(below)
    first = colour_beside(stream, beside, 70)
    second = first
    for _ in range(12):
        other = shade(stream, first, 90)
        if contrast(other, first) >= 20 and min(contrast(other, colour) for colour in beside) >= 60:
            second = other
            break
    style = stream.pick((*TEXTURES, "gradient", "edge", *["plain"] * 4)) if size >= 20 else "plain"
    if style == "edge":
        weight = 256 - _without_edge(coverage, 1 + size // 40) * 256 // FULL
    else:
        height, width = coverage.shape
        weight = texture(stream, style, height, width, stream.between(5, max(6, min(size // 3, 18))))
    return blend(first, second, weight, bits=8)


def _quarters(pixels: np.ndarray) -> list[Colour]:
    """Mean colours of the four quarters of a picture."""
    height, width = pixels.shape[:2]
    colours: list[Colour] = []
    for rows in (slice(0, height // 2), slice(height // 2, height)):
        for columns in (slice(0, width // 2), slice(width // 2, width)):
            quarter = pixels[rows, columns].reshape(-1, 3)
            if len(quarter):
                red, green, blue = (quarter.sum(axis=0, dtype=np.int64) // len(quarter)).tolist()
                colours.append((red, green, blue))
    return colours


def _without_edge(coverage: np.ndarray, times: int) -> np.ndarray:
    """Coverage with `times` pixels taken away along the edge."""
    for _ in range(times):
        wide = np.pad(coverage, 1)
        across = np.minimum(wide[1:-1, 2:], wide[1:-1, :-2])
        along = np.minimum(wide[2:, 1:-1], wide[:-2, 1:-1])
        coverage = np.minimum(coverage, np.minimum(across, along))
    return coverage


def _photograph(stream: Stream, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the picture under uneven light, some a little out of focus, with the grain of a sensor."""
    height, width = pixels.shape[:2]
    light = 256 - texture(stream, "gradient", height, width, 1) * stream.between(0, 80) // 256
    pixels = pixels * light[..., None] >> 8
    if stream.chance(40):
        wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
        wide = wide[:-2] + 2 * wide[1:-1] + wide[2:]
        pixels = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:] + 8) >> 4
    grain = stream.between(1, 12)
    noise = stream.grid(height, width * 3, 2 * grain + 1).reshape(height, width, 3) - grain
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)
