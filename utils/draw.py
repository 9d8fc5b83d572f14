"""Boxes with labels on an image, and several images as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import ImageFont

from utils.fonts import font_runs, load_font
from utils.text import class_name, shorten

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
TEXT_SIZE = 11
"""Pixels of text that is easily read; from 220 pixels of height and width together on, labels have no less."""


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

    In tiny images, whose text is smaller than others', tags hide a quarter of the image at most: the worse detections
    have a tag without score, or none.

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
    tags, taken, size = [], np.empty((0, 4), np.int64), text_size(height, width)
    left = height * width // 4 if size < TEXT_SIZE else None
    for i in reversed(order):  # the best detection chooses its place first
        name = class_name(names, int(labels[i]))
        texts = [name] if scores is None else [f"{name} {float(scores[i]):.2f}", name]
        for text in texts:
            tag = _tag(text, size, class_colour(int(labels[i])), width)[:height]
            if left is None or tag[..., 0].size <= left:
                left = None if left is None else left - tag[..., 0].size
                tags.append(tag)
                taken = np.vstack((taken, _place(tag.shape[:2], corners[i], taken, (height, width))))
                break
    for tag, (x1, y1, x2, y2) in zip(reversed(tags), taken[::-1], strict=True):
        canvas[y1:y2, x1:x2] = tag
    return canvas


def line_width(height: int, width: int) -> int:
    """Pixels of a box's line in an image of this size: 1 at 100x100, 2 at 640x480, 5 at full HD."""
    return max(round((height + width) * 0.0014 + 0.8), 1)


def text_size(height: int, width: int) -> int:
    """Pixels of label text in an image of this size; tiny ones have the smallest that can be read, magnified."""
    smallest = min(max(round((height + width) * 0.05), 7), TEXT_SIZE)
    return max(round((height + width) * 0.0118), smallest)


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
    strip = _tag(text, max(text_size(*image.shape[:2]), TEXT_SIZE), BACKGROUND, image.shape[1])
    above = np.full((len(strip), image.shape[1], 3), BACKGROUND, np.uint8)
    above[:, : strip.shape[1]] = strip
    return np.vstack((above, image))


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
    """(1, 4) place of a tag above its box, else inside or below: the first one in the image that no other tag takes.

    A box that the tag would fill by half or more has it below, where its object is seen.
    """
    (tag_height, tag_width), (height, width) = size, image_size
    x1, y1, x2, y2 = (int(v) for v in box)
    left, right = max(min(x1, width - tag_width), 0), max(min(x2 + 1, width) - tag_width, 0)
    above, below = y1 - tag_height, y2 + 1
    beside = [(left, y1), (left, below)] if below - y1 > 2 * tag_height else [(left, below), (left, y1)]
    spots = [(left, above), *beside, (right, above), (right, below - tag_height)]
    spots += [(left, y1 + line * tag_height) for line in range(1, 6)]  # a classifier's, all of one box
    inside = [(x, y) for x, y in spots if 0 <= y <= height - tag_height] or [(left, 0)]
    x, y = next((spot for spot in inside if not _overlaps(spot, tag_height, tag_width, taken)), inside[0])
    return np.array([[x, y, x + tag_width, y + tag_height]])


def _overlaps(spot: tuple[int, int], height: int, width: int, taken: np.ndarray) -> bool:
    x, y = spot
    across = (taken[:, 0] < x + width) & (taken[:, 2] > x)
    return bool((across & (taken[:, 1] < y + height) & (taken[:, 3] > y)).any())


@lru_cache(maxsize=1024)  # of a 4K video that is 80 MB at most
def _tag(text: str, size: int, colour: tuple[int, int, int], limit: int) -> np.ndarray:
    """(h, w, 3) text on a filled tag of at most `limit` pixels width; cached, as video shows the same ones again."""
    text = shorten(text, 200)
    padding = max(size // 4, 2)
    runs = [(run, load_font(path, size)) for run, path in font_runs(text)]
    if _length(runs) + 2 * padding > limit:
        while text and _length(runs) + 2 * padding > limit:
            text = text[:-1]
            runs = [(run, load_font(path, size)) for run, path in font_runs(f"{text}…")]
    ascent, descent = (max(measures) for measures in zip(*(font.getmetrics() for _, font in runs), strict=True))
    alpha = np.zeros((ascent + descent + 2, max(round(_length(runs)) + 2 * padding, 1)), np.float32)
    begin = float(padding)
    for run, font in runs:
        mask, (x, y) = font.getmask2(run, mode="L", anchor="ls")
        ink = np.array(mask, np.float32).reshape(mask.size[::-1]) / 255
        top, start = max(ascent + 1 + y, 0), max(round(begin) + x, 0)
        part = alpha[top : top + ink.shape[0], start : start + ink.shape[1]]
        np.maximum(part, ink[: part.shape[0], : part.shape[1]], out=part)
        begin += font.getlength(run)
    luminance = float(np.dot(colour, (0.299, 0.587, 0.114)))
    paper, letters = np.array(colour, np.float32), np.float32(20 if luminance > 135 else 255)
    return np.rint(paper + alpha[..., None] * (letters - paper)).astype(np.uint8)[:, :limit]


def _length(runs: Sequence[tuple[str, ImageFont.FreeTypeFont]]) -> float:
    return sum(font.getlength(run) for run, font in runs)
