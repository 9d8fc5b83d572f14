"""Boxes with labels on an image, and several images as one picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ImageFont

from utils.text import shorten

logger = logging.getLogger(__name__)

# Chosen one after another, each as far as possible in OKLab from those before it, so any few classes look different.
_CODES = (
    "ff5a36", "1fa2ff", "22c55e", "ffc61a", "c026d3", "feb4f7", "746208", "4b2bfd", "675796", "2cecf7",
    "b50358", "15938c", "c673a3", "be9034", "42fa0f", "fe1f9d", "906efa", "fc6dfe", "238c0a", "aae496",
    "fdae94", "b74506", "a7a1e7", "1b6ad4", "7a31ca", "5bc0aa", "982f93", "b1bb27", "036c92", "9e5469",
    "6b84c3", "759958", "28744a", "fd04dc", "ed0146", "73c2ee", "fd7b96", "1af091", "cb6e60", "c56fdf",
)  # fmt: skip
PALETTE: tuple[tuple[int, int, int], ...] = tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, _CODES))
"""RGB of class 0, 1, ...; it starts again after its 40 colours."""

BACKGROUND = (245, 245, 245)


def class_colour(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class, the same in every picture."""
    return PALETTE[label % len(PALETTE)]


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    names: Sequence[str],
) -> np.ndarray:
    """A copy of `image` with boxes, class names and scores on it; line and text grow with the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels of `image`; parts outside it are left out.
        labels: (N,) zero-based class index.
        scores: (N,) in [0, 1], or None (ground truth).
        names: class names by index; a class beyond them shows its number. Any script that an installed font has.
    """
    canvas = np.ascontiguousarray(image).copy()
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64).reshape(-1)
    if len(boxes) == 0 or canvas.size == 0:
        return canvas
    height, width = canvas.shape[:2]
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")  # best one on top
    corners = _corners(boxes, height, width)
    line = line_width(height, width)
    for i in order:
        _outline_(canvas, corners[i], class_colour(int(labels[i])), line)
    tags, taken = [], np.empty((0, 4), np.int64)
    for i in reversed(order):  # the best detection chooses its place first
        name = names[labels[i]] if 0 <= labels[i] < len(names) else str(labels[i])
        text = name if scores is None else f"{name} {float(scores[i]):.2f}"
        tags.append(_tag(text, text_size(height, width), class_colour(int(labels[i])), width)[:height])
        taken = np.vstack((taken, _place(tags[-1].shape[:2], corners[i], taken, (height, width))))
    for tag, (x1, y1, x2, y2) in zip(reversed(tags), taken[::-1], strict=True):
        canvas[y1:y2, x1:x2] = tag
    return canvas


def line_width(height: int, width: int) -> int:
    """Pixels of a box's line in an image of this size: 1 at 100x100, 2 at 640x480, 5 at full HD."""
    return max(round((height + width) * 0.0014 + 0.8), 1)


def text_size(height: int, width: int) -> int:
    """Pixels of label text in an image of this size; it stays readable in small ones."""
    return max(round((height + width) * 0.0118), 11)


def image_grid(images: Sequence[np.ndarray], columns: int, *, gap: int = 6) -> np.ndarray:
    """Several (H, W, 3) uint8 images as one picture, row by row, in cells as large as the largest; none is scaled.

    Raises:
        ValueError: no image, or fewer than one column.
    """
    if not images or columns < 1:
        raise ValueError(f"a grid needs images and columns; found {len(images)} images and {columns} columns")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    grid = np.full(shape, BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        y = gap + i // columns * (height + gap) + (height - image.shape[0]) // 2
        x = gap + i % columns * (width + gap) + (width - image.shape[1]) // 2
        grid[y : y + image.shape[0], x : x + image.shape[1]] = image
    return grid


def with_caption(image: np.ndarray, text: str) -> np.ndarray:
    """The (H, W, 3) uint8 image below a strip with `text`, shortened to the width."""
    strip = _tag(text, text_size(*image.shape[:2]), BACKGROUND, image.shape[1])
    above = np.full((len(strip), image.shape[1], 3), BACKGROUND, np.uint8)
    above[:, : strip.shape[1]] = strip
    return np.vstack((above, image))


def font_for(text: str) -> str:
    """The file of a font that has the letters of `text`.

    It is DejaVu Sans, which matplotlib brings along (OpenCV's fonts are ASCII only), else an installed one.
    """
    special = frozenset(letter for letter in text if not letter.isascii())
    return _font_file(special) if special else _default_font()


def _corners(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 4) int64 first and last column and row of each box; one with NaN or outside sits at the edge."""
    pixels = np.rint(np.nan_to_num(boxes)) - (0, 0, 1, 1)  # from edges between pixels to pixels
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2])
    return np.clip(pixels, 0, (width - 1, height - 1, width - 1, height - 1)).astype(np.int64)


def _outline_(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    """A frame of `line` pixels inside the box: exact pixels, where cv2.rectangle rounds thick corners."""
    x1, y1, x2, y2 = (int(v) for v in box)
    x_in, y_in = min(x1 + line, x2 + 1), min(y1 + line, y2 + 1)
    canvas[y1:y_in, x1 : x2 + 1] = colour
    canvas[max(y2 + 1 - line, y1) : y2 + 1, x1 : x2 + 1] = colour
    canvas[y1 : y2 + 1, x1:x_in] = colour
    canvas[y1 : y2 + 1, max(x2 + 1 - line, x1) : x2 + 1] = colour


def _place(size: tuple[int, int], box: np.ndarray, taken: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(1, 4) place of a tag above its box, else inside or below: the first one in the image that no other tag takes."""
    (tag_height, tag_width), (height, width) = size, image_size
    x1, y1, x2, y2 = (int(v) for v in box)
    left, right = max(min(x1, width - tag_width), 0), max(min(x2 + 1, width) - tag_width, 0)
    above, below = y1 - tag_height, y2 + 1
    spots = [(left, above), (left, y1), (left, below), (right, above), (right, below - tag_height)]
    spots += [(left, y1 + line * tag_height) for line in range(1, 6)]  # a classifier's, all of one box
    inside = [(x, y) for x, y in spots if 0 <= y <= height - tag_height] or [(left, 0)]
    x, y = next((spot for spot in inside if not _overlaps(spot, tag_height, tag_width, taken)), inside[0])
    return np.array([[x, y, x + tag_width, y + tag_height]])


def _overlaps(spot: tuple[int, int], height: int, width: int, taken: np.ndarray) -> bool:
    x, y = spot
    across = (taken[:, 0] < x + width) & (taken[:, 2] > x)
    return bool((across & (taken[:, 1] < y + height) & (taken[:, 3] > y)).any())


_load_font = lru_cache(maxsize=64)(ImageFont.truetype)


@lru_cache(maxsize=4096)
def _tag(text: str, size: int, colour: tuple[int, int, int], limit: int) -> np.ndarray:
    """(h, w, 3) text on a filled tag of at most `limit` pixels width; cached, as video shows the same ones again."""
    text = shorten(text, 200)
    font = _load_font(font_for(text), size)
    padding = max(size // 4, 2)
    if font.getlength(text) + 2 * padding > limit:
        while text and font.getlength(text + "…") + 2 * padding > limit:
            text = text[:-1]
        text += "…"
    ascent, descent = font.getmetrics()
    mask, (x, y) = font.getmask2(text, mode="L", anchor="ls")
    ink = np.array(mask, np.float32).reshape(mask.size[::-1]) / 255
    alpha = np.zeros((ascent + descent + 2, max(round(font.getlength(text)) + 2 * padding, 1)), np.float32)
    top, start = max(ascent + 1 + y, 0), max(padding + x, 0)
    part = alpha[top : top + ink.shape[0], start : start + ink.shape[1]]
    part[:] = ink[: part.shape[0], : part.shape[1]]
    luminance = float(np.dot(colour, (0.299, 0.587, 0.114)))
    paper, letters = np.array(colour, np.float32), np.float32(20 if luminance > 135 else 255)
    return np.rint(paper + alpha[..., None] * (letters - paper)).astype(np.uint8)[:, :limit]


def _default_font() -> str:
    spec = find_spec("matplotlib")  # its import takes longer than all the drawing
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


@lru_cache(maxsize=1024)
def _font_file(letters: frozenset[str]) -> str:
    """The first font with all these letters and ASCII: the default one, else any installed (Chinese, Hindi, ...)."""
    needed = {ord(letter) for letter in letters if not letter.isspace()} | set(b"0aA")
    missing = _missing(_default_font(), needed)
    if not missing:
        return _default_font()
    from utils.figures import font_manager  # slow to import, and rarely needed

    for path in sorted(font_manager.findSystemFonts()):
        if not _missing(path, needed):
            return path
    shown = "".join(sorted(map(chr, missing)))
    logger.warning("no installed font can draw '%s'; class names show boxes in their place", shown)
    return _default_font()


@lru_cache(maxsize=256)
def _charset(path: str) -> frozenset[int]:
    from utils.figures import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # bitmap and broken fonts
        return frozenset()


def _missing(path: str, needed: set[int]) -> set[int]:
    return needed - _charset(path)
