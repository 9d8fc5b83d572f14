"""Boxes follow their pixels: every geometric step is checked on painted rectangles."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data.pipeline import AlbumentationsPipeline
from data.transforms import (
    FILL,
    Labelled,
    affine_matrix,
    change_colour,
    draw_,
    jitter_matrix,
    keep_visible,
    random_flips,
    random_hsv,
    resize_image,
    ten_crop_size,
    ten_crops,
    warp,
)
from utils.augment_config import AugmentConfig
from utils.boxes import plan_resize

OFF = AugmentConfig(
    mosaic=0, translate=0, scale=0, flip_lr=0, flip_ud=0, hue=0, saturation=0, value=0, min_area=0, min_side=0
)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
RECTANGLES = ((20, 30, 60, 50), (80, 10, 100, 70), (10, 60, 40, 78))


def painted(height: int = 90, width: int = 120, rectangles: tuple = RECTANGLES) -> Labelled:
    """Black, with one rectangle a colour; label k has colour k."""
    image = np.zeros((height, width, 3), np.uint8)
    for colour, (x1, y1, x2, y2) in zip(COLOURS, rectangles, strict=False):
        image[y1:y2, x1:x2] = colour
    count = len(rectangles)
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    return Labelled(image, boxes, np.arange(count), np.zeros(count, bool))


def painted_box(image: np.ndarray, label: int) -> np.ndarray:
    """xyxy of the pixels of a label's colour, edges where the colour is half as strong."""
    strength = image[..., label].astype(float) - np.delete(image, label, axis=2).max(axis=2)
    result = []
    for axis in (0, 1):
        profile = strength.max(axis=axis) / 255
        inside = np.flatnonzero(profile > 0.5)
        first, last = inside[0], inside[-1]
        low = first - profile[first - 1] if first > 0 else first
        high = last + 1 + profile[last + 1] if last + 1 < len(profile) else last + 1
        result.append((low, high))
    (x1, x2), (y1, y2) = result
    return np.array([x1, y1, x2, y2])


def check_boxes(item: Labelled, *, within: float = 1.0) -> None:
    for box, label in zip(item.boxes, item.labels, strict=True):
        assert np.abs(painted_box(item.image, label) - box).max() <= within, label


def empty_item() -> Labelled:
    return painted(rectangles=())


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_an_image_without_objects_goes_through_every_step() -> None:
    config = AugmentConfig(scale=0.5, degrees=10, shear=5, flip_lr=1, flip_ud=1)
    for item in (
        warp(empty_item(), affine_matrix((60, 45), (64, 96), config, rng()), (64, 96), config),
        random_flips(empty_item(), config, rng()),
        keep_visible(empty_item(), config),
        AlbumentationsPipeline([{"type": "HorizontalFlip", "p": 1.0}])(empty_item(), rng()),
    ):
        assert item.boxes.shape == (0, 4)
        assert item.boxes.dtype == np.float32
        assert item.labels.shape == item.crowd.shape == (0,)


# Resize


@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
@pytest.mark.parametrize("size", [(96, 96), (180, 240), (64, 160), (90, 120)])
def test_resize_moves_rectangles_as_the_letterbox_says(size: tuple[int, int], mode: str) -> None:
    item = painted()
    box = plan_resize(90, 120, size, mode)
    image = resize_image(item.image, box, size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    check_boxes(replace(item, image=image, boxes=box.apply(item.boxes)))


def test_the_sides_of_a_letterbox_are_grey_and_the_image_is_untouched_at_its_own_size() -> None:
    item = painted()
    image = resize_image(item.image, plan_resize(90, 120, (120, 120), "letterbox"), (120, 120))
    assert (image[:15] == FILL).all()
    assert (image[105:] == FILL).all()
    assert np.array_equal(image[15:105], item.image)
    image = resize_image(item.image, plan_resize(90, 120, (120, 120), "corner"), (120, 120), mode="corner")
    assert (image[90:] == FILL).all()
    assert np.array_equal(image[:90], item.image)


# Affine


def test_the_identity_changes_nothing() -> None:
    item = painted()
    same = warp(item, np.array([[1.0, 0, 0], [0, 1, 0]]), (90, 120), OFF)
    assert np.array_equal(same.image, item.image)
    assert np.array_equal(same.boxes, item.boxes)


def test_doubling_follows_the_half_pixel_rule() -> None:
    """Pixel edges at whole numbers: [20, 60) becomes [40, 120) exactly, without a shift of half a pixel."""
    item = painted()
    double = warp(item, np.array([[2.0, 0, 0], [0, 2, 0]]), (180, 240), OFF)
    assert double.boxes.tolist() == (item.boxes * 2).tolist()
    for box, label in zip(double.boxes, double.labels, strict=True):
        np.testing.assert_allclose(painted_box(double.image, label), box, atol=0.3)
    expected = cv2.resize(item.image, (240, 180), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(double.image.astype(int) - expected)[1:-1, 1:-1]
    assert difference.max() <= 4, "as OpenCV resizes, whose pixel centres lie at halves too"


@pytest.mark.parametrize("seed", range(6))
def test_random_scales_and_shifts_keep_boxes_tight(seed: int) -> None:
    config = replace(OFF, scale=0.4, translate=0.1)
    matrix = affine_matrix((60, 45), (150, 200), config, np.random.default_rng(seed))
    item = warp(painted(), matrix, (150, 200), config)
    assert len(item.boxes) >= 2
    check_boxes(item)


@pytest.mark.parametrize("seed", range(4))
def test_rotation_and_shear_enclose_the_rectangles(seed: int) -> None:
    config = replace(OFF, degrees=30, shear=10, scale=0.2)
    matrix = affine_matrix((60, 45), (200, 220), config, np.random.default_rng(seed))
    item = warp(painted(), matrix, (200, 220), config)
    assert len(item.boxes) == 3
    for box, label in zip(item.boxes, item.labels, strict=True):
        found = painted_box(item.image, label)
        assert (found[:2] >= box[:2] - 1).all()
        assert (found[2:] <= box[2:] + 1).all()
        assert np.abs(found - box).max() <= 3, "corners are drawn faintly"


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_image_is_where_the_map_that_is_given_back_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(20):
        image = np.full((int(generator.integers(1, 60)), int(generator.integers(1, 60)), 3), 255, np.uint8)
        scale, offset = generator.uniform(0.3, 2, 2), generator.uniform(-60, 60, 2)
        matrix = np.column_stack((np.diag(scale), offset))
        target = np.zeros((50, 40, 3), np.uint8)
        taken = draw_(target, image, matrix)
        corners = np.array([[0, 0], [image.shape[1], image.shape[0]]])
        (x1, y1), (x2, y2) = (corners @ taken[:, :2].T + taken[:, 2]).round(6).clip(0, [40, 50]).astype(int)
        expected = np.zeros_like(target)
        expected[y1:y2, x1:x2] = 255
        assert np.array_equal(target, expected), "whole pixels, and nothing beside them"
        wanted = corners @ matrix[:, :2].T + matrix[:, 2]
        (x1, y1), (x2, y2) = wanted.clip(0, [40, 50])
        if x2 - x1 > 1 and y2 - y1 > 1:
            rows, columns = np.nonzero(target[..., 0])
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(edges) - (x1, y1, x2, y2)).max() <= 0.5 + 1e-9


def test_a_rotation_turns_the_picture_about_the_centre() -> None:
    item = painted(rectangles=((70, 40, 90, 50),))
    angle = math.radians(90)
    linear = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    offset = np.array([60, 60]) - linear @ np.array([60, 45])
    turned = warp(item, np.column_stack((linear, offset)), (120, 120), OFF)
    np.testing.assert_allclose(turned.boxes, [[55, 30, 65, 50]], atol=1e-4)
    check_boxes(turned)


def test_what_leaves_the_image_is_clipped_or_dropped() -> None:
    item = painted()
    shifted = np.array([[1.0, 0, -50], [0, 1, 0]])
    moved = warp(item, shifted, (90, 120), OFF)
    assert moved.labels.tolist() == [0, 1]
    assert moved.boxes.tolist() == [[0, 30, 10, 50], [30, 10, 50, 70]]
    assert warp(item, shifted, (90, 120), replace(OFF, min_area=0.3)).labels.tolist() == [1]
    assert (moved.image[:, 71:] == FILL).all()


def test_keep_visible_looks_at_the_share_of_area_and_at_the_sides() -> None:
    boxes = np.array([[-10, 0, 10, 10], [-30, 0, 10, 10], [5, 5, 6.5, 20], [5, 5, 5, 5], [-9, -9, -1, -1]], np.float32)
    item = Labelled(np.zeros((40, 40, 3), np.uint8), boxes, np.arange(5), np.array([True, False, True, False, False]))
    kept = keep_visible(item, replace(OFF, min_area=0.3, min_side=2))
    assert kept.labels.tolist() == [0]
    assert kept.crowd.tolist() == [True]
    assert kept.boxes.tolist() == [[0, 0, 10, 10]]
    assert keep_visible(item, OFF).labels.tolist() == [0, 1, 2], "boxes without area never stay"


# Flips and colour


def test_flips_mirror_image_and_boxes_alike() -> None:
    for config in (replace(OFF, flip_lr=1), replace(OFF, flip_ud=1), replace(OFF, flip_lr=1, flip_ud=1)):
        item = random_flips(painted(), config, rng())
        check_boxes(item, within=0)
        assert item.image.flags["C_CONTIGUOUS"]
        again = random_flips(item, config, rng())
        assert np.array_equal(again.image, painted().image)
        assert np.array_equal(again.boxes, painted().boxes)
    assert np.array_equal(random_flips(painted(), OFF, rng()).image, painted().image)


def test_flips_happen_as_often_as_asked() -> None:
    generator = rng()
    item = Labelled(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    flipped = [random_flips(item, replace(OFF, flip_lr=0.3), generator).image[0, 0, 0] != 0 for _ in range(1000)]
    assert 0.25 < np.mean(flipped) < 0.35


def test_colour_is_left_alone_at_zero_and_changes_as_little_as_asked() -> None:
    image = np.random.default_rng(0).integers(0, 180, (30, 40, 3), dtype=np.uint8)
    before = image.copy()
    assert np.array_equal(random_hsv(image, OFF, rng()), image)
    changed = random_hsv(image, replace(OFF, value=0.4), np.random.default_rng(3))
    assert np.array_equal(image, before), "the input stays as it is"
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    bright = image.max(axis=2) > 100
    ratio = changed.max(axis=2)[bright] / image.max(axis=2)[bright]
    assert ratio.std() < 0.05, "one factor for the whole image"
    assert 0.6 < ratio.mean() < 1.4
    assert abs(ratio.mean() - 1) > 0.02
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert np.array_equal(random_hsv(grey, replace(OFF, hue=0.5, saturation=0.5), rng()), grey)


@pytest.mark.parametrize("turn", [-0.45, -0.16, -0.0075, 0, 0.0075, 0.05, 0.25, 0.5])
def test_colours_are_turned_on_the_circle_and_their_saturation_and_value_scaled(turn: float) -> None:
    hues = np.arange(180)
    hsv = np.dstack([np.tile(hues, (300, 1)), np.full((300, 180), 120), np.full((300, 180), 150)]).astype(np.uint8)
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    found = cv2.cvtColor(change_colour(image, turn, 0.8, 1.2), cv2.COLOR_RGB2HSV).astype(int)
    assert np.abs((found[..., 0] - hues - turn * 180 + 90) % 180 - 90).max() <= 3
    assert np.abs(found[..., 1] / (0.8 * 120) - 1).max() < (0.06 if abs(turn) < 0.01 or turn in (0, 0.5) else 0.25)
    assert np.abs(found[..., 2] - 180).max() <= 1
    assert (found == found[:1]).all(), "all rows alike, however many are done at a time"


def test_saturation_and_value_are_those_of_hsv() -> None:
    image = np.random.default_rng(1).integers(30, 200, (40, 50, 3), dtype=np.uint8)
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(float)
    expected *= (1, 0.7, 0.9)
    expected = cv2.cvtColor(expected.round().astype(np.uint8), cv2.COLOR_HSV2RGB).astype(int)
    assert np.abs(change_colour(image, 0.0, 0.7, 0.9) - expected).max() <= 5, "a hue of OpenCV has two degrees"
    assert np.array_equal(change_colour(image, 0.0, 1.0, 1.0), image)
    assert (change_colour(image, 0.0, 1.0, 9.0).max(axis=2) == 255).all()
    assert np.array_equal(change_colour(image, 1 / 3, 1.0, 1.0), np.roll(image, 1, axis=2)), "red becomes green"


def test_darknets_colours_are_turned_hues_and_factors_with_their_inverse() -> None:
    image = np.zeros((1, 180, 3), np.uint8)
    image[0] = cv2.cvtColor(
        np.dstack([np.arange(180)[None], *np.full((2, 1, 180), 120)]).astype(np.uint8), cv2.COLOR_HSV2RGB
    )[0]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    turns, factors = [], []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        changed = random_hsv(image, replace(OFF, hue=0.1, value=0.5, colour="darknet"), generator)
        found = cv2.cvtColor(changed, cv2.COLOR_RGB2HSV).astype(int)
        turns.append(np.median((found[..., 0] - hsv[..., 0] + 90) % 180 - 90))
        factors.append(np.median(found[..., 2] / hsv[..., 2]))
    assert -18 - 2 <= min(turns) < -12
    assert 12 < max(turns) <= 18 + 2
    assert 0.64 < min(factors) < 0.7
    assert 1.45 < max(factors) < 1.53
    assert 0.4 < np.mean(np.array(factors) > 1) < 0.6


def test_jitter_cuts_or_widens_each_side_and_fills_the_input() -> None:
    """A corner of the image goes where the cut of its sides puts it; the aspect changes."""
    shape, size = (90, 120), (90, 120)
    scales = []
    for seed in range(300):
        matrix = jitter_matrix(shape, size, 0.3, np.random.default_rng(seed))
        cut = np.random.default_rng(seed).uniform(-0.3, 0.3, (2, 2))  # x and y; first and last side
        kept = np.array([[cut[0, 0] * 120, cut[1, 0] * 90], [(1 - cut[0, 1]) * 120, (1 - cut[1, 1]) * 90]])
        np.testing.assert_allclose(kept @ matrix[:, :2].T + matrix[:, 2], [[0, 0], [120, 90]], atol=1e-9)
        scales.append(np.diag(matrix))
    assert np.min(scales) > 1 / 1.6
    assert np.max(scales) < 1 / 0.4
    assert np.ptp(np.divide(*np.transpose(scales))) > 1
    identity = jitter_matrix(shape, (90, 160), 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(identity, [[1, 0, 20], [0, 1, 0]])


@pytest.mark.parametrize("keep", [(False, False), (True, False), (False, True), (True, True)])
def test_jitter_can_leave_a_corner_where_it_is(keep: tuple[bool, bool]) -> None:
    for seed in range(50):
        matrix = jitter_matrix((90, 120), (90, 120), 0.3, np.random.default_rng(seed), keep=keep)
        corner = np.array([120 * keep[0], 90 * keep[1]])
        np.testing.assert_allclose(matrix[:, :2] @ corner + matrix[:, 2], corner, atol=1e-9)
        free = jitter_matrix((90, 120), (90, 120), 0.3, np.random.default_rng(seed))
        np.testing.assert_allclose(np.diag(matrix), np.diag(free), err_msg="as much is cut in all")


def test_ten_crops_are_the_corners_the_centre_and_their_mirror_images() -> None:
    assert ten_crop_size((256, 256)) == (288, 288)
    assert ten_crop_size((224, 64)) == (252, 72)
    images = torch.arange(2 * 3 * 9 * 18).reshape(2, 3, 9, 18).float()
    crops = ten_crops(images, (8, 16))
    assert crops.shape == (20, 3, 8, 16)
    assert torch.equal(crops[0], images[0, :, :8, :16])
    assert torch.equal(crops[3], images[0, :, 1:, 2:])
    assert torch.equal(crops[4], images[0, :, :8, 1:17])
    assert torch.equal(crops[15], images[1, :, :8, :16].flip(-1))
    assert torch.equal(ten_crops(images, (9, 18))[7], images[0].flip(-1))
