"""Boxes and labels on images: exact pixels, tags inside the image, any script, fast enough for video."""

from __future__ import annotations

import time

import numpy as np
import pytest

from utils.draw import (
    PALETTE,
    TEXT_SIZE,
    class_colour,
    draw_detections,
    image_grid,
    line_width,
    text_size,
    with_caption,
)

NAMES = ("dog", "bicycle", "грузовик", "naïve café", "a very long name of a class " * 5)


def blank(height: int, width: int, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_nothing_to_draw_gives_an_equal_copy() -> None:
    image = blank(20, 30)
    drawn = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), None, NAMES)
    assert drawn is not image
    assert np.array_equal(drawn, image)


def test_the_frame_lies_exactly_inside_the_box_and_leaves_the_inside_alone() -> None:
    image = blank(200, 300)
    drawn = draw_detections(image, np.array([[50, 100, 150, 180]]), np.array([0]), None, NAMES)
    line = line_width(200, 300)
    assert (image == 90).all()
    for y, x in ((100, 50), (179, 149), (179, 50), (100, 149), (140, 50), (180 - line, 100)):
        assert tuple(drawn[y, x]) == class_colour(0)
    assert (drawn[100 + line : 180 - line, 50 + line : 150 - line] == 90).all()
    assert (drawn[180:] == 90).all()
    assert (drawn[:, 150:] == 90).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (24, 24), (60, 400), (480, 640)])
@pytest.mark.parametrize("label", range(6))
def test_tags_stay_inside_images_of_every_size(size: tuple[int, int], label: int) -> None:
    height, width = size
    corners = np.array([[0, 0, 3, 3], [width - 3, 0, width, 3], [0, height - 3, 3, height], [-9, -9, 2 * width, 9]])
    drawn = draw_detections(blank(*size), corners, np.full(4, label), np.linspace(1, 0.1, 4), NAMES)
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8


def test_a_tag_above_the_box_holds_legible_text() -> None:
    drawn = draw_detections(blank(200, 300), np.array([[50, 100, 150, 180]]), np.array([0]), np.array([0.87]), NAMES)
    tag = drawn[100 - text_size(200, 300) : 100, 50:150].reshape(-1, 3).astype(int)
    paper = (np.abs(tag - np.array(class_colour(0))).sum(axis=1) == 0).sum()
    ink = (tag.max(axis=1) < 60).sum()
    assert paper > 200
    assert ink > 40


def test_names_beyond_ascii_look_different_from_missing_letters() -> None:
    pictures = [
        draw_detections(blank(60, 200), np.array([[5, 30, 100, 55]]), np.array([0]), None, [name])
        for name in ("грузовик", "дорожный", "naïve", "naive")
    ]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[2], pictures[3])


def test_tags_of_neighbours_do_not_cover_each_other() -> None:
    boxes = np.array([[100, 100, 200, 180], [102, 102, 202, 182], [104, 100, 204, 180]])
    drawn = draw_detections(blank(300, 400), boxes, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]), ["aa", "bb", "cc"])
    one = draw_detections(blank(300, 400), boxes[:1], np.array([0]), np.array([0.9]), ["aa"])
    tag_pixels = (one == class_colour(0)).all(axis=2).sum() - 2 * 2 * (100 + 76)
    for label in range(3):
        assert (drawn == class_colour(label)).all(axis=2).sum() > 0.8 * tag_pixels


def test_the_best_detection_is_on_top() -> None:
    boxes = np.tile(np.array([[20.0, 40, 80, 90]]), (2, 1))
    drawn = draw_detections(blank(100, 100), boxes, np.array([0, 1]), np.array([0.2, 0.9]), NAMES)
    assert tuple(drawn[89, 50]) == class_colour(1)


def test_boxes_that_are_no_numbers_or_outside_do_not_crash() -> None:
    boxes = np.array([[np.nan, 0, 5, 5], [1e9, 1e9, 2e9, 2e9], [-50, -50, -40, -40], [9, 9, 3, 3]])
    assert draw_detections(blank(50, 50), boxes, np.array([0, 1, 2, 99]), None, NAMES).shape == (50, 50, 3)


def test_the_first_colours_are_far_apart_and_all_are_different() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 40
    first = np.array(PALETTE[:12], float)
    distance = np.abs(first[:, None] - first[None]).sum(axis=2) + 1e9 * np.eye(len(first))
    assert distance.min() > 80
    assert class_colour(3) == class_colour(3 + len(PALETTE))


def test_it_keeps_up_with_video() -> None:
    image, rng = blank(432, 768), np.random.default_rng(0)
    boxes = rng.uniform(0, 400, (10, 4))
    boxes[:, 2:] += boxes[:, :2]
    draw_detections(image, boxes, np.arange(10) % 3, rng.uniform(0, 1, 10), NAMES)
    times = []
    for _ in range(20):
        start = time.thread_time()  # not the clock: the machine may be busy
        draw_detections(image, boxes, np.arange(10) % 3, rng.uniform(0, 1, 10), NAMES)
        times.append(time.thread_time() - start)
    assert min(times) < 1 / 60


def test_grid_puts_images_row_by_row_in_equal_cells() -> None:
    images = [blank(10, 20, value) for value in (1, 2, 3)]
    grid = image_grid(images, 2, gap=2)
    assert grid.shape == (2 * 12 + 2, 2 * 22 + 2, 3)
    assert (grid[2:12, 2:22] == 1).all()
    assert (grid[2:12, 24:44] == 2).all()
    assert (grid[14:24, 2:22] == 3).all()
    assert image_grid(images[:1], 5, gap=0).shape == (10, 20, 3)
    small = image_grid([blank(10, 10, 1), blank(4, 6, 2)], 2, gap=0)
    assert (small[3:7, 12:18] == 2).all()


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 0)])
def test_grid_of_nothing_is_refused(count: int, columns: int) -> None:
    with pytest.raises(ValueError, match="grid needs images"):
        image_grid([blank(2, 2)] * count, columns)


def test_a_caption_adds_a_strip_above() -> None:
    image = blank(40, 120)
    captioned = with_caption(image, "ground truth of an image with a long name.jpg")
    assert captioned.shape[1:] == image.shape[1:]
    assert np.array_equal(captioned[-40:], image)
    assert captioned[:-40].min() < 100


@pytest.mark.parametrize("size", [(16, 16), (48, 64), (64, 64), (80, 120)])
def test_tiny_images_stay_visible(size: tuple[int, int]) -> None:
    height, width = size
    corners = np.random.default_rng(0).uniform(0, 0.9, (30, 2)) * (width, height)
    boxes = np.concatenate((corners, corners + 1), axis=1)  # frames of a pixel: what is left are the tags
    for scores in (np.linspace(0.9, 0.3, 30), None):
        drawn = draw_detections(blank(*size), boxes, np.arange(30) % 4, scores, NAMES)
        assert (drawn != 90).any(axis=2).sum() <= height * width / 4 + 30
    assert line_width(height, width) == 1


@pytest.mark.parametrize("size", [(60, 80), (480, 640)])
def test_a_tag_does_not_hide_a_small_object_at_the_top(size: tuple[int, int]) -> None:
    width = size[1]
    boxes = np.array([[width // 4, 0, width // 2, text_size(*size) + 4]])
    drawn = draw_detections(blank(*size), boxes, np.array([0]), np.array([0.9]), NAMES)
    line = line_width(*size)
    assert (drawn[line : boxes[0, 3] - line, boxes[0, 0] + line : boxes[0, 2] - line] == 90).all()
    assert (drawn[boxes[0, 3] + 1 : boxes[0, 3] + 5, boxes[0, 0] : boxes[0, 0] + 2] == class_colour(0)).all()


def test_a_tiny_image_names_the_best_detection() -> None:
    boxes = np.array([[20, 30, 40, 45], [2, 30, 10, 40]])
    drawn = draw_detections(blank(48, 64), boxes, np.array([0, 1]), np.array([0.9, 0.4]), NAMES)
    above = drawn[30 - text_size(48, 64) : 29, 20:50]
    assert ((above == class_colour(0)).all(axis=2)).mean() > 0.3
    assert 7 <= text_size(48, 64) < TEXT_SIZE == text_size(110, 110)


def test_a_4k_image_has_lines_and_text_of_the_same_share() -> None:
    assert line_width(2160, 3840) == 9
    assert text_size(2160, 3840) == 71
