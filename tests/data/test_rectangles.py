"""Inputs that are no squares: mosaics, letterboxes and sizes of objects, against calculations in plain NumPy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import anchors
from data.config import load_data_config
from data.dataset import Request, TrainDataset
from data.doctor import __main__ as doctor
from data.read import read_split
from data.sampler import SizePlan
from tests.data.test_transforms import OFF
from utils.boxes import FILL
from utils.structures import LabelledImages, Sample

WIDE, TALL = (48, 160), (160, 48)
SEED, EPOCH = 3, 2


def noisy(folder: Path, shapes: list[tuple[int, int]]) -> LabelledImages:
    """Images of noise of these (height, width), each with two boxes."""
    rng, samples = np.random.default_rng(1), []
    for number, (height, width) in enumerate(shapes):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        corners = rng.uniform(0, 0.5, (2, 2)) * (width, height)
        boxes = np.concatenate((corners, corners + rng.uniform(0.2, 0.5, (2, 2)) * (width, height)), axis=1)
        samples.append(Sample(path, number, height, width, boxes, np.array([number, 4]), np.zeros(2, bool)))
    return LabelledImages(samples, tuple("abcde"), (1, 2, 3, 4, 5), {})


def filling(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes that are letterboxed into `size` without a change of scale."""
    height, width = size
    return [(height, width), (height, 3 * width // 4), (3 * height // 4, width), (height, width // 3)]


def mosaic_of(images: LabelledImages, size: tuple[int, int], **changes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boxes and crossing (x, y) of the mosaic of all four, as a training sees it."""
    config = replace(OFF, mosaic=1.0, **changes)
    dataset = TrainDataset(images, config, image_size=size, resize="letterbox", seed=SEED)
    item = dataset[Request(EPOCH, 0, size, True, 0, (1, 2, 3))]
    rng = np.random.default_rng((SEED, EPOCH, 0, 0))
    rng.random()  # whether there is a mosaic
    shares = rng.uniform(*((0.2, 0.8) if "mosaic_type" in changes else (0.25, 0.75)), 2)
    return item.image.numpy().transpose(1, 2, 0), item.boxes.numpy(), shares


def pixels(images: LabelledImages) -> list[np.ndarray]:
    return [np.asarray(Image.open(sample.path)) for sample in images.samples]


@pytest.mark.parametrize("size", [WIDE, TALL, (96, 64)])
def test_a_mosaic_is_the_middle_of_a_canvas_of_twice_the_height_and_twice_the_width(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    images = noisy(tmp_path, filling(size))
    found, boxes, (share_x, share_y) = mosaic_of(images, size)
    height, width = size
    x, y = int(2 * width * share_x), int(2 * height * share_y)
    grey = max(size)  # room on all sides, cut off below
    canvas = np.full((2 * height + 2 * grey, 2 * width + 2 * grey, 3), FILL, np.uint8)
    expected = []
    for place, (image, sample) in enumerate(zip(pixels(images), images.samples, strict=True)):
        h, w = image.shape[:2]
        left, top = x - (w if place in (0, 2) else 0), y - (h if place in (0, 1) else 0)
        canvas[top + grey : top + h + grey, left + grey : left + w + grey] = image
        for box in sample.boxes + np.array([left, top, left, top]):
            on_canvas = box.clip(0, (2 * width, 2 * height) * 2)
            seen = (on_canvas - np.array([width, height] * 2) / 2).clip(0, (width, height) * 2)
            if (seen[2:] > seen[:2]).all():
                expected.append(seen)
    first_row, first_column = grey + height // 2, grey + width // 2
    np.testing.assert_array_equal(found, canvas[first_row:, first_column:][:height, :width])
    assert len(expected) >= 3
    np.testing.assert_allclose(boxes, expected, atol=1e-3)


@pytest.mark.parametrize("size", [WIDE, TALL])
def test_quadrants_meet_at_shares_of_height_and_width(tmp_path: Path, size: tuple[int, int]) -> None:
    images = noisy(tmp_path, [size] * 4)
    found, boxes, (share_x, share_y) = mosaic_of(images, size, mosaic_type="quadrants")
    (height, width), parts = size, pixels(images)
    x, y = int(width * share_x), int(height * share_y)
    above = np.concatenate((parts[0][height - y :, width - x :], parts[1][height - y :, : width - x]), axis=1)
    below = np.concatenate((parts[2][: height - y, width - x :], parts[3][: height - y, : width - x]), axis=1)
    np.testing.assert_array_equal(found, np.concatenate((above, below)))
    shifts = [(x - width, y - height), (x, y - height), (x - width, y), (x, y)]
    limits = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    expected = []
    for sample, shift, (x1, y1, x2, y2) in zip(images.samples, shifts, limits, strict=True):
        moved = (sample.boxes + np.tile(shift, 2)).clip((x1, y1, x1, y1), (x2, y2, x2, y2))
        expected += [box for box in moved if (box[2:] > box[:2]).all()]
    np.testing.assert_allclose(boxes, expected, atol=1e-3)


def test_every_size_of_multi_scale_letterboxes_into_its_own_height_and_width(tmp_path: Path) -> None:
    images = noisy(tmp_path, [(90, 200), (200, 90), (64, 64)])
    dataset = TrainDataset(images, OFF, image_size=WIDE, resize="letterbox", seed=SEED)
    sides, _ = SizePlan(WIDE, 16, multi_scale=0.5, seed=1).epoch(0, count=200, batch_size=1)
    sizes = {(height, width) for height, width in sides.tolist()}
    assert {height for height, _ in sizes} == {32, 48, 64}  # shares of 0.5 to 1.5 of 48, in strides
    assert {width for _, width in sizes} >= {80, 128, 160, 208, 240}
    assert all(abs(width / height - 160 / 48) < 1.7 for height, width in sizes), "about the shape of the base size"
    for height, width in sorted(sizes)[::4]:
        for index, sample in enumerate(images.samples):
            item = dataset[Request(0, index, (height, width), False)]
            assert tuple(item.image.shape) == (3, height, width)
            scale = min(height / sample.height, width / sample.width)
            shift = (np.array([width, height]) - scale * np.array([sample.width, sample.height])) / 2
            np.testing.assert_allclose(item.boxes, sample.boxes * scale + np.tile(shift, 2), atol=2)


@pytest.mark.parametrize(("height", "width"), [(96, 320), (320, 96)])
def test_anchors_and_doctor_see_objects_at_the_size_of_the_training(
    tiny_coco: Path, height: int, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "setup_logging", lambda **_: None)  # it would silence the log of other tests
    images = read_split(load_data_config(str(tiny_coco)), "train")
    sides = np.array(
        [
            (box[2:] - box[:2]) * min(height / sample.height, width / sample.width)
            for sample in images.samples
            for box in sample.boxes[~sample.crowd]
        ]
    )
    size = ["--img-size", str(height), str(width)]
    assert anchors.main([str(tiny_coco), *size, "--num", "1", "--levels", "1", "--json"]) == 0
    (level,) = json.loads(capsys.readouterr().out)["anchors"]
    np.testing.assert_allclose(level, np.median(sides, axis=0), atol=1)
    doctor.main([str(tiny_coco), *size, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["image_size"] == [height, width]
    counted = report["splits"]["train"]["sides"]
    longer = sides.max(axis=1)
    assert counted["32-64"] == ((longer >= 32) & (longer < 64)).sum() > 0
    assert sum(counted.values()) == len(sides)
